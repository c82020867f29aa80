//! Centred kernel alignment, linear, of what leaves the last layer with and without a layer.
//!
//! One pass: sums of products of rows less a first guess of their means, from which centring follows at the end.

use candle_core::{DType, Tensor};

use super::{Evaluate, Metric, OfOutputs, Order, Subject, Tokens};
use crate::model::EndOfStack;
use crate::{Error, Result};

pub(super) const BIASED: Metric = Metric {
    name: "cka",
    about: "linear CKA of the last stream with and without the layer; drops single layers",
    reference: "Pons et al., arXiv 2405.17081",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Highest,
    value: Evaluate::Outputs(|candidates| Cka::boxed(candidates, false, false)),
    usual: false,
};

pub(super) const DEBIASED: Metric = Metric {
    name: "cka-debiased",
    about: "the same, debiased: for few tokens beside d",
    reference: "Kornblith et al., arXiv 1905.00414",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Highest,
    value: Evaluate::Outputs(|candidates| Cka::boxed(candidates, true, false)),
    usual: false,
};

pub(super) const BIASED_REST: Metric = Metric {
    name: "cka-rest",
    about: "linear CKA less the first token of each sequence, which outweighs others",
    reference: "Pons et al., arXiv 2405.17081",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Highest,
    value: Evaluate::Outputs(|candidates| Cka::boxed(candidates, false, true)),
    usual: false,
};

pub(super) const DEBIASED_REST: Metric = Metric {
    name: "cka-debiased-rest",
    about: "the same, debiased",
    reference: "Kornblith et al., arXiv 1905.00414",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Highest,
    value: Evaluate::Outputs(|candidates| Cka::boxed(candidates, true, true)),
    usual: false,
};

struct Cka {
    debiased: bool,
    /// Whether the first token of each sequence is left out.
    rest: bool,
    /// Tokens.
    n: usize,
    /// The dense stream, with itself.
    whole: Option<Own>,
    /// Of each candidate its own sums, and those with the dense stream.
    candidates: Vec<Option<(Own, Cross)>>,
}

/// Sums over the rows z `[d]` of a stream less `shift`, with s = z·z.
struct Own {
    shift: Tensor,
    /// Σ zᵀz, `[d, d]`.
    gram: Tensor,
    /// Σ z and Σ s z.
    sums: (Tensor, Tensor),
    /// Σ s and Σ s².
    squares: (f64, f64),
}

/// Sums over the rows x of the dense stream and y of another.
struct Cross {
    /// Σ xᵀy, `[d, d]`.
    gram: Tensor,
    /// Σ |y|² x and Σ |x|² y.
    sums: (Tensor, Tensor),
    /// Σ |x|²|y|².
    squares: f64,
}

/// Rows of a batch less their shift, `[t, d]`, and their squared lengths, `[t]`.
struct Rows {
    z: Tensor,
    s: Tensor,
}

fn scalar(x: &Tensor) -> Result<f64> {
    Ok(x.to_scalar::<f64>()?)
}

fn weighted(s: &Tensor, z: &Tensor) -> Result<Tensor> {
    Ok(s.unsqueeze(0)?.matmul(z)?.squeeze(0)?)
}

fn gram(a: &Rows, b: &Rows) -> Result<Tensor> {
    Ok(a.z.t()?.contiguous()?.matmul(&b.z)?)
}

impl Own {
    /// Nothing yet; the mean of the first batch is the shift.
    fn new(x: &Tensor) -> Result<Self> {
        let shift = x.mean(0)?;
        let d = shift.dim(0)?;
        let zeros = || Tensor::zeros(d, DType::F64, x.device());
        let gram = Tensor::zeros((d, d), DType::F64, x.device())?;
        Ok(Self { shift, gram, sums: (zeros()?, zeros()?), squares: (0.0, 0.0) })
    }

    fn rows(&self, x: &Tensor) -> Result<Rows> {
        let z = x.broadcast_sub(&self.shift)?;
        let s = z.sqr()?.sum(1)?;
        Ok(Rows { z, s })
    }

    fn add(&mut self, rows: &Rows) -> Result<()> {
        self.gram = (&self.gram + gram(rows, rows)?)?;
        self.sums = ((&self.sums.0 + rows.z.sum(0)?)?, (&self.sums.1 + weighted(&rows.s, &rows.z)?)?);
        self.squares.0 += scalar(&rows.s.sum_all()?)?;
        self.squares.1 += scalar(&rows.s.sqr()?.sum_all()?)?;
        Ok(())
    }
}

/// Two streams, centred: ‖XᵀY‖² and what debiasing takes off.
struct Products<'a> {
    n: f64,
    own: (&'a Own, &'a Own),
    gram: &'a Tensor,
    /// Σ |y|² x, Σ |x|² y, Σ |x|²|y|².
    sums: (&'a Tensor, &'a Tensor, f64),
}

impl Products<'_> {
    fn value(&self, debiased: bool) -> Result<f64> {
        let (n, (x, y)) = (self.n, self.own);
        let (mx, my) = ((&x.sums.0 / n)?, (&y.sums.0 / n)?);
        let outer = mx.unsqueeze(1)?.matmul(&my.unsqueeze(0)?)?;
        let centered = (self.gram - (outer * n)?)?;
        let square = scalar(&centered.sqr()?.sum_all()?)?;
        if !debiased {
            return Ok(square);
        }
        let dot = |a: &Tensor, b: &Tensor| scalar(&(a * b)?.sum_all()?);
        let (xx, yy) = (dot(&mx, &mx)?, dot(&my, &my)?);
        let (sx, sy) = (x.squares.0, y.squares.0);
        let between = dot(&mx, &self.gram.matmul(&my.unsqueeze(1)?)?.squeeze(1)?)?;
        // Σ |x - mx|²|y - my|², written out; Σ x is n mx
        let both = self.sums.2 - 2.0 * dot(&my, self.sums.1)? + yy * sx - 2.0 * dot(&mx, self.sums.0)? + 4.0 * between
            - 2.0 * yy * n * xx
            + xx * sy
            - 2.0 * xx * n * yy
            + n * xx * yy;
        let (sx, sy) = (sx - n * xx, sy - n * yy);
        Ok(square - n / (n - 2.0) * both + sx * sy / ((n - 1.0) * (n - 2.0)))
    }
}

impl Cka {
    fn boxed(candidates: usize, debiased: bool, rest: bool) -> Box<dyn OfOutputs> {
        let candidates = (0..candidates).map(|_| None).collect();
        Box::new(Self { debiased, rest, n: 0, whole: None, candidates })
    }

    /// The rows that count, in f64.
    fn counted(&self, x: &Tensor, end: &EndOfStack<'_>) -> Result<Tensor> {
        let x = x.to_dtype(DType::F64)?;
        if !self.rest {
            return Ok(x);
        }
        let segments = end.batch().layout.segments().iter();
        let rows: Vec<u32> = segments.flat_map(|s| s.start + 1..s.start + s.len).map(|row| row as u32).collect();
        Ok(x.index_select(&Tensor::new(rows, x.device())?, 0)?)
    }
}

impl OfOutputs for Cka {
    fn bytes(&self, d: usize) -> u64 {
        (8 * d * d * (2 * self.candidates.len() + 2)) as u64
    }

    fn see(&mut self, candidate: usize, end: &EndOfStack<'_>) -> Result<()> {
        let Some(x) = end.whole else { return Err(Error::work("CKA needs the whole model's stream")) };
        let (x, y) = (self.counted(x, end)?, self.counted(end.x, end)?);
        if x.dim(0)? == 0 {
            return Ok(());
        }
        let whole = match self.whole.take() {
            Some(whole) => whole,
            None => Own::new(&x)?,
        };
        let whole = self.whole.insert(whole);
        let x = whole.rows(&x)?;
        if candidate == 0 {
            self.n += x.s.dim(0)?;
            whole.add(&x)?;
        }
        let (mut own, mut cross) = match self.candidates[candidate].take() {
            Some(known) => known,
            None => {
                let own = Own::new(&y)?;
                let zeros = || own.sums.0.zeros_like();
                let cross = Cross { gram: own.gram.zeros_like()?, sums: (zeros()?, zeros()?), squares: 0.0 };
                (own, cross)
            }
        };
        let y = own.rows(&y)?;
        own.add(&y)?;
        cross.gram = (&cross.gram + gram(&x, &y)?)?;
        cross.sums = ((&cross.sums.0 + weighted(&y.s, &x.z)?)?, (&cross.sums.1 + weighted(&x.s, &y.z)?)?);
        cross.squares += scalar(&(&x.s * &y.s)?.sum_all()?)?;
        self.candidates[candidate] = Some((own, cross));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<f64>> {
        let n = self.n as f64;
        let Some(x) = self.whole.filter(|_| self.n > 3) else { return Err(Error::work("CKA needs four tokens")) };
        let itself = |own: &Own| {
            let (sum, square) = (&own.sums.1, own.squares.1);
            Products { n, own: (own, own), gram: &own.gram, sums: (sum, sum, square) }.value(self.debiased)
        };
        let dense = itself(&x)?;
        let candidates = self.candidates.iter().map(|candidate| {
            let Some((y, cross)) = candidate else { return Err(Error::work("a candidate was not run")) };
            let sums = (&cross.sums.0, &cross.sums.1, cross.squares);
            let between = Products { n, own: (&x, y), gram: &cross.gram, sums }.value(self.debiased)?;
            let scale = (dense * itself(y)?).sqrt();
            Ok(if scale > 0.0 { between / scale } else { 0.0 })
        });
        candidates.collect()
    }
}
