//! What computes the stages of a run, as far as an estimate of their time asks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::recipe::Recipe;
use crate::commands::open;
use crate::model::tokens_at_once;
use crate::progress::Silent;
use crate::{Result, ops};

/// What is left of the speed of products when norms, activations and attention have taken their part.
const EFFICIENCY: f64 = 0.8;

/// What computes a stage, as far as an estimate asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Machine {
    /// Floating point operations a second in products.
    pub(super) flops: f64,
    /// Bytes of weights a second that are read for one new token after the other.
    pub(super) reading: f64,
    /// Tokens that are in work at once while a model is measured or scored.
    pub(super) at_once: usize,
}

impl Machine {
    /// Measures the device that `--device` and `--dtype` name.
    ///
    /// # Errors
    /// Request: there is none such. The device's.
    pub(super) fn measure(device: Option<&str>, dtype: Option<&str>) -> Result<Self> {
        let device = open::device(device, dtype, &Silent)?;
        Ok(Self {
            flops: EFFICIENCY * 2.0 * ops::multiply_adds(&device)?,
            reading: ops::reading(&device)?,
            at_once: tokens_at_once(&device),
        })
    }
}

/// How a [`Machine`] is found for what a section says of device and type.
pub(super) type Measure<'a> = &'a dyn Fn(Option<&str>, Option<&str>) -> Result<Machine>;

/// The machines of a recipe's sections, each measured once.
pub(super) struct Machines {
    pub(super) analyze: Option<Machine>,
    pub(super) eval: Option<Machine>,
    pub(super) bench: Option<Machine>,
}

impl Machines {
    /// Those of `recipe`, found by `measure`.
    ///
    /// # Errors
    /// As [`Machine::measure`].
    pub(super) fn of(recipe: &Recipe, measure: Measure<'_>) -> Result<Self> {
        let mut known = BTreeMap::new();
        let mut find = |device: &Option<String>, dtype: &Option<String>| -> Result<Machine> {
            match known.entry((device.clone(), dtype.clone())) {
                Entry::Occupied(found) => Ok(*found.get()),
                Entry::Vacant(missing) => Ok(*missing.insert(measure(device.as_deref(), dtype.as_deref())?)),
            }
        };
        Ok(Self {
            analyze: recipe.analyze.as_ref().map(|section| find(&section.device, &section.dtype)).transpose()?,
            eval: recipe.eval.as_ref().map(|section| find(&section.device, &section.dtype)).transpose()?,
            bench: recipe.bench.as_ref().map(|section| find(&section.device, &section.dtype)).transpose()?,
        })
    }
}
