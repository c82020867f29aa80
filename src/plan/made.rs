//! How a plan says that a tensor is made: the values of its layer's, of other layers', of a file's, put together.
//!
//! ```json
//! {"sum": [{"times": 0.5, "of": {"layer": 3}}, {"times": 0.5, "of": {"layer": 5}}]}
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// More parts than any tensor is made of; more are a broken file.
const MOST_PARTS: usize = 1 << 12;

/// A tensor of a place, computed in f32 and rounded once to the type that the layer's own tensor has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Made {
    /// The tensor of this name in that layer of the source.
    Layer(usize),
    /// A tensor of a safetensors file.
    Stored {
        /// The file; read from a plan, it lies beside the plan unless its path says otherwise.
        file: PathBuf,
        /// Its name there.
        tensor: String,
    },
    /// Nothing but zeros.
    Zeros,
    /// A sum of tensors of one shape.
    Sum(Vec<Term>),
    /// The product of two matrices, `[m, k]` and `[k, n]`.
    Matmul(Box<Made>, Box<Made>),
}

/// A part of a sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// Its factor.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub times: f64,
    /// What is added.
    pub of: Made,
}

fn one() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(times: &f64) -> bool {
    *times == 1.0
}

impl Made {
    /// Looks at it alone, for a source of `layers` layers.
    ///
    /// # Errors
    /// A request error: a layer that is not there, a factor that is no number, a sum of nothing, too many parts.
    pub(super) fn check(&self, layers: usize) -> Result<()> {
        let mut parts = 0;
        self.walk(&mut |made| {
            parts += 1;
            match made {
                _ if parts > MOST_PARTS => {
                    Err(Error::request(format!("a tensor is made of more than {MOST_PARTS} parts")))
                }
                Self::Layer(layer) if *layer >= layers => Err(Error::request(format!(
                    "a tensor is made of layer {layer}, but the model has {layers} layers (0..={})",
                    layers.saturating_sub(1)
                ))),
                Self::Sum(terms) if terms.is_empty() => Err(Error::request("a tensor is made of a sum of nothing")),
                Self::Sum(terms) => match terms.iter().find(|term| !term.times.is_finite()) {
                    Some(term) => Err(Error::request(format!("a part of a sum is taken {} times", term.times))),
                    None => Ok(()),
                },
                _ => Ok(()),
            }
        })
    }

    /// Calls `see` with it and everything it is made of.
    fn walk(&self, see: &mut impl FnMut(&Self) -> Result<()>) -> Result<()> {
        see(self)?;
        match self {
            Self::Layer(_) | Self::Stored { .. } | Self::Zeros => Ok(()),
            Self::Sum(terms) => terms.iter().try_for_each(|term| term.of.walk(see)),
            Self::Matmul(left, right) => {
                left.walk(see)?;
                right.walk(see)
            }
        }
    }

    /// Gives the files it is stored in other names.
    pub(super) fn rename_files(&mut self, rename: &dyn Fn(&Path) -> PathBuf) {
        match self {
            Self::Layer(_) | Self::Zeros => {}
            Self::Stored { file, .. } => *file = rename(file),
            Self::Sum(terms) => terms.iter_mut().for_each(|term| term.of.rename_files(rename)),
            Self::Matmul(left, right) => {
                left.rename_files(rename);
                right.rename_files(rename);
            }
        }
    }

    /// The files it is stored in.
    pub(super) fn files<'a>(&'a self, found: &mut Vec<&'a Path>) {
        match self {
            Self::Layer(_) | Self::Zeros => {}
            Self::Stored { file, .. } => found.push(file),
            Self::Sum(terms) => terms.iter().for_each(|term| term.of.files(found)),
            Self::Matmul(left, right) => {
                left.files(found);
                right.files(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_written_as_it_is_read() {
        for value in [
            json!({"layer": 3}),
            json!("zeros"),
            json!({"stored": {"file": "T.safetensors", "tensor": "T"}}),
            json!({"sum": [{"of": {"layer": 1}}, {"times": -0.5, "of": "zeros"}]}),
            json!({"matmul": [{"stored": {"file": "T", "tensor": "t"}}, {"layer": 0}]}),
        ] {
            let made: Made = serde_json::from_value(value.clone()).unwrap();
            made.check(4).unwrap();
            assert_eq!(serde_json::to_value(&made).unwrap(), value);
        }
    }

    #[test]
    fn what_makes_no_tensor_is_refused() {
        let check = |value| serde_json::from_value::<Made>(value).unwrap().check(4).unwrap_err().to_string();
        assert!(check(json!({"matmul": ["zeros", {"layer": 4}]})).contains("layer 4, but the model has 4 layers"));
        assert!(check(json!({"sum": []})).contains("sum of nothing"));
        let many = vec![Term { times: 1.0, of: Made::Zeros }; MOST_PARTS];
        assert!(Made::Sum(many).check(4).unwrap_err().to_string().contains("more than"));
        let nan = Made::Sum(vec![Term { times: f64::NAN, of: Made::Zeros }]);
        assert!(nan.check(4).unwrap_err().to_string().contains("NaN times"));
    }

    #[test]
    fn files_lie_beside_the_plan() {
        let stored = |file: &str| Made::Stored { file: file.into(), tensor: "T".into() };
        let mut made = Made::Sum(vec![Term { times: 2.0, of: stored("a") }, Term { times: 2.0, of: stored("/b") }]);
        made.rename_files(&|file| Path::new("plans").join(file));
        let expected = [stored("plans/a"), stored("/b")].map(|of| Term { times: 2.0, of });
        assert_eq!(made, Made::Sum(expected.into()));
    }
}
