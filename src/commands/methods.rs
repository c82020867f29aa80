//! `prune methods`: the tables of methods and of repairs, for a person or a program.

use std::fmt;

use serde::Serialize;

pub use super::methods_settings::MethodsSettings;
use crate::Result;
use crate::methods::{self, METHODS, Method, RemovalUnit};
use crate::repair::{self, REPAIRS, Repair};

/// The tables.
#[derive(Clone, Debug, Serialize)]
pub struct MethodsReport {
    /// What chooses the layers.
    pub methods: Vec<MethodReport>,
    /// What can be put at the seams of a cut.
    pub repairs: Vec<RepairRow>,
}

/// A repair.
#[derive(Clone, Debug, Serialize)]
pub struct RepairRow {
    /// What `--repair` calls it.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// Whether what comes of it opens wherever the source does.
    pub opens_everywhere: bool,
}

/// A row.
#[derive(Clone, Debug, Serialize)]
pub struct MethodReport {
    /// What `--method` and recipes call it.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// What goes at a time.
    pub unit: RemovalUnit,
    /// The metric it follows; absent where it looks at no scores.
    pub metric: Option<&'static str>,
    /// How it picks.
    pub pick: &'static str,
    /// What has to be computed.
    pub cost: &'static str,
}

/// Runs `prune methods` without a model.
///
/// # Errors
/// Request: settings that go with a model.
pub fn methods(settings: &MethodsSettings) -> Result<MethodsReport> {
    settings.check_table()?;
    let row = |method: &Method| MethodReport {
        name: method.name,
        about: method.about,
        reference: method.reference,
        unit: method.unit,
        metric: method.metric().map(|metric| metric.name),
        pick: method.pick,
        cost: method.cost(),
    };
    let repair = |repair: &Repair| {
        let Repair { name, about, reference, opens_everywhere, .. } = *repair;
        RepairRow { name, about, reference, opens_everywhere }
    };
    // layers that are named come by --drop, not by a method
    let methods = METHODS.iter().filter(|method| method.pick != "given").map(row);
    Ok(MethodsReport { methods: methods.collect(), repairs: REPAIRS.iter().map(repair).collect() })
}

impl fmt::Display for MethodsReport {
    /// Two lines a method: what it is, and what it looks at; and the repairs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, method) in self.methods.iter().enumerate() {
            let MethodReport { name, about, reference, unit, metric, pick, cost } = method;
            let unit = match unit {
                RemovalUnit::Block => "a block",
                RemovalUnit::Layer => "single layers",
                RemovalUnit::SubLayer => "single sub-layers",
            };
            let seen = metric.map_or_else(String::new, |metric| format!(" by {metric}"));
            let line = if place == 0 { "" } else { "\n" };
            write!(f, "{line}{name:<19} {about}\n{:<19} {unit}, {pick}{seen}; costs {cost}; {reference}", "")?;
        }
        write!(f, "\n\nRepairs, for cut --repair:")?;
        for RepairRow { name, about, reference, opens_everywhere } in &self.repairs {
            let opens = if *opens_everywhere { "opens everywhere" } else { "opens here" };
            write!(f, "\n{name:<19} {about}\n{:<19} {opens}; {reference}", "")?;
        }
        let (best, method) = methods::BEST;
        write!(f, "\n\n{best} stands for {method} as a method and for {} as a repair.", repair::BEST.1.name)
    }
}
