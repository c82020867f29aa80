//! A plan in the words of other tools, which number layers in three different ways.

use std::fmt::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::Plan;

/// One plan, four notations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notations {
    /// Ours: dropped layers, 0-based, inclusive ranges: `21..=28`.
    pub inclusive: String,
    /// llama.cpp's `--prune-layers`: dropped layers, 0-based, comma list.
    pub llama_cpp: String,
    /// NeMo's `drop_layers`: dropped layers, **1-based**, space list.
    pub nemo: String,
    /// mergekit's `passthrough` configuration: kept layers, 0-based, half-open slices. Without `dtype`, so that
    /// mergekit does not cast either.
    pub mergekit: String,
    /// The slices of that configuration: `[0, 21] [29, 32]`.
    pub slices: String,
}

impl fmt::Display for Notations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "drop layers        {}  (0-based, inclusive)", self.inclusive)?;
        writeln!(f, "mergekit           {}  (kept layers, half-open slices)", self.slices)?;
        writeln!(f, "llama.cpp          --prune-layers {}", self.llama_cpp)?;
        write!(f, "NeMo               drop_layers=[{}]  (1-based)", self.nemo.replace(' ', ", "))
    }
}

impl Plan {
    /// The plan in other tools' notations; `None` where it does more than drop whole layers.
    #[must_use]
    pub fn notations(&self) -> Option<Notations> {
        if !self.only_drops_layers() {
            return None;
        }
        let dropped = self.dropped();
        let list = |first: usize, separator: &str| {
            dropped.iter().map(|layer| (layer + first).to_string()).collect::<Vec<_>>().join(separator)
        };
        // a JSON string is a YAML string
        let model = Value::String(self.planned_for.pinned()).to_string();
        let slices = runs(self.kept()).into_iter().map(|(first, last)| format!("[{first}, {}]", last + 1));
        let slices: Vec<String> = slices.collect();
        let mut mergekit = String::from("slices:\n");
        for slice in &slices {
            _ = writeln!(mergekit, "- sources:\n  - model: {model}\n    layer_range: {slice}");
        }
        mergekit.push_str("merge_method: passthrough\n");
        Some(Notations {
            inclusive: ranges(dropped.iter().copied()),
            llama_cpp: list(0, ","),
            nemo: list(1, " "),
            mergekit,
            slices: slices.join(" "),
        })
    }
}

/// Ascending layers as inclusive ranges: `1..=2, 4`.
#[must_use]
pub fn ranges(layers: impl IntoIterator<Item = usize>) -> String {
    let parts = runs(layers).into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}..={last}"),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// Ascending layers as (first, last) of each run without a gap.
fn runs(layers: impl IntoIterator<Item = usize>) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for layer in layers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == layer => *last = layer,
            _ => runs.push((layer, layer)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::tests::model;
    use super::*;

    #[test]
    fn the_papers_llama_in_every_notation() {
        let notations = Plan::block(model(32), 21, 8).unwrap().notations().unwrap();
        assert_eq!(notations.inclusive, "21..=28");
        assert_eq!(notations.llama_cpp, "21,22,23,24,25,26,27,28");
        assert_eq!(notations.slices, "[0, 21] [29, 32]");
        assert_eq!(notations.nemo, "22 23 24 25 26 27 28 29");
        assert_eq!(
            notations.mergekit,
            "slices:\n- sources:\n  - model: \"org/name\"\n    layer_range: [0, 21]\n- sources:\n  - model: \
             \"org/name\"\n    layer_range: [29, 32]\nmerge_method: passthrough\n"
        );
    }

    #[test]
    fn islands_edges_and_nothing() {
        let notations = Plan::drop_layers(model(6), &[0, 2, 3, 5].into()).unwrap().notations().unwrap();
        assert_eq!(notations.inclusive, "0, 2..=3, 5");
        assert!(notations.mergekit.contains("[1, 2]") && notations.mergekit.contains("[4, 5]"));
        let notations = Plan::drop_layers(model(6), &[].into()).unwrap().notations().unwrap();
        assert_eq!((notations.inclusive.as_str(), notations.llama_cpp.as_str()), ("", ""));
        assert!(notations.mergekit.contains("[0, 6]"));
    }

    #[test]
    fn a_revision_goes_with_the_model() {
        let mut plan = Plan::block(model(4), 1, 1).unwrap();
        plan.planned_for.revision = Some("abc".into());
        assert!(plan.notations().unwrap().mergekit.contains("\"org/name@abc\""));
        plan.planned_for.id = "org/name@main".into();
        assert!(plan.notations().unwrap().mergekit.contains("\"org/name@abc\""));
    }
}
