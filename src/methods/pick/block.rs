//! The n neighbouring layers whose block scores best (arXiv 2403.17887, section 3.2).

use super::{Candidates, How, Pick};
use crate::importance::Choice;

pub(super) const PICK: Pick =
    Pick { name: "block", about: "the n neighbouring layers whose block scores best", how: How::Blocks(block) };

fn block(candidates: &Candidates<'_>, n: usize) -> Choice {
    let allowed = candidates.allowed;
    let ranked = candidates.ranked(n, allowed.start..allowed.end - n + 1);
    let layers = |l: usize| (l..l + n).collect();
    candidates.choice(n, layers(ranked[0]), ranked[0], &ranked[1..], layers)
}
