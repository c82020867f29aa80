//! The deepest layers but the last (arXiv 2403.17887, sections 3.2 and 4.4): L-1-n..=L-2.

use std::ops::Range;

use super::{How, Pick};
use crate::{Error, Result};

pub(super) const PICK: Pick =
    Pick { name: "deepest", about: "the n layers below the last, which stays", how: How::Place(deepest) };

fn deepest(layers: usize, n: usize) -> Result<Range<usize>> {
    if n == 0 || n >= layers {
        return Err(Error::request(format!(
            "cannot drop the deepest {n} of {layers} layers: the last layer stays, so 1 to {} can go",
            layers.saturating_sub(1)
        )));
    }
    Ok(layers - 1 - n..layers - 1)
}
