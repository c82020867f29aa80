//! The last layers, the very last one included ("Reassessing Layer Pruning in LLMs", arXiv 2411.15558): L-n..=L-1.

use std::ops::Range;

use super::{How, Pick};
use crate::{Error, Result};

pub(super) const PICK: Pick =
    Pick { name: "tail", about: "the last n layers, the very last one included", how: How::Place(tail) };

fn tail(layers: usize, n: usize) -> Result<Range<usize>> {
    if n == 0 || n >= layers {
        return Err(Error::request(format!(
            "cannot drop the last {n} of {layers} layers: 1 to {} can go, the first layer stays",
            layers.saturating_sub(1)
        )));
    }
    Ok(layers - n..layers)
}
