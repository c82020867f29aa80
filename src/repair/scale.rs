//! The scale: the stream behind a seam is as much larger as the gap made it.

use super::sums::{Map, SeamEstimate};
use super::{How, Repair};

/// α, the mean ratio of magnitudes behind and before the gap. Published, embedding and projections before the seam are
/// multiplied by it; here those behind it are divided, which comes to the same because norms do not see the size of a
/// stream, and leaves the kept beginning as it was.
pub(super) const SCALE: Repair = Repair {
    name: "scale",
    about: "later updates are divided by the ratio of magnitudes behind and before the gap",
    reference: "Prune&Comp, arXiv 2507.18212",
    opens_everywhere: true,
    how: How::Seams(|sums| Ok(SeamEstimate { scale: sums.ratio(), map: Map::Times(sums.ratio()), bias: None })),
};
