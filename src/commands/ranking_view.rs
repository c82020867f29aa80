//! The ranking of `prune methods MODEL` for a person: a line a method, with a strip of its layers.

use std::fmt;

use super::analysis_view::signed;
use super::ranking::{Ranked, RankedMethod, RankingReport};
use super::ranking_repairs::{RankedBy, RankedRepair};
use super::repair_report::TextSize;
use crate::checkpoint::ByteSize;
use crate::plan::{Dropped, SubLayer};
use crate::report::{Column, table};
use crate::shown::shown;

/// Seconds with what digits they are worth.
fn seconds(seconds: f64) -> String {
    if seconds < 9.95 { format!("{seconds:.1}") } else { format!("{seconds:.0}") }
}

/// A character a layer: `·` stays, `x` goes, `a` and `m` for its attention or MLP alone.
pub(super) fn strip(dropped: &Dropped, layers: usize) -> String {
    let letter = |layer: usize| match dropped.sublayers.get(&layer) {
        _ if dropped.layers.contains(&layer) => 'x',
        Some(gone) if gone.contains(SubLayer::Attention) && gone.contains(SubLayer::Mlp) => 'x',
        Some(gone) if gone.contains(SubLayer::Attention) => 'a',
        Some(gone) if gone.contains(SubLayer::Mlp) => 'm',
        _ => '·',
    };
    (0..layers).map(letter).collect()
}

impl RankingReport {
    fn row(&self, method: &RankedMethod) -> Vec<String> {
        let RankedMethod { name, cost, layer_passes, seconds: took, choice } = method;
        let mut row = vec![(*name).to_owned()];
        if let Some(Ranked { dropped, same_as, loss, rise, rise_stderr, difference, difference_stderr, repaired }) =
            choice
        {
            let (difference, difference_stderr) = match repaired {
                Some(repaired) => (&repaired.difference, &repaired.difference_stderr),
                None => (difference, difference_stderr),
            };
            let worse = match (same_as, *difference == 0.0) {
                (Some(other), _) => format!("as {other}"),
                (None, true) => "best".to_owned(),
                (None, false) => signed(*difference, *difference_stderr),
            };
            let rise = signed(*rise, *rise_stderr);
            row.extend([strip(dropped, self.layers), dropped.to_string(), format!("{loss:.4}"), rise]);
            if self.repair.is_some() {
                let both = |own: &RankedRepair| [format!("{:.4}", own.cut), format!("{:.4}", own.repaired)];
                row.extend(repaired.as_ref().map_or_else(|| [const { String::new() }; 2], both));
            }
            row.push(if self.repair.is_some() && repaired.is_none() { String::new() } else { worse });
        }
        row.push(layer_passes.to_string());
        row.push(took.map_or_else(|| (*cost).to_owned(), seconds));
        row
    }
}

impl fmt::Display for RankingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, layers, dropped_layers, data, samples, tokens, .. } = self;
        writeln!(f, "{}: {dropped_layers} of {layers} layers go", shown(model))?;
        writeln!(f, "{samples} sequences ({tokens} tokens) of {}", shown(data))?;
        let (weights, cap) = (ByteSize(self.weight_bytes), ByteSize(self.memory_bytes.unwrap_or_default()));
        let place = self.residency.says();
        writeln!(f, "layers {place}, {weights} of weights (cap {cap})\n")?;
        let mut head = vec![Column::left("method")];
        if self.whole.is_some() {
            head.extend([Column::left("layers"), Column::left("dropped"), Column::right("loss")]);
            head.push(Column::right("above uncut"));
            if self.repair.is_some() {
                head.extend([Column::right("judged"), Column::right("repaired")]);
            }
            head.push(Column::right("above best"));
        }
        head.push(Column::right("layer passes"));
        head.push(if self.whole.is_some() { Column::right("seconds") } else { Column::left("costs") });
        writeln!(f, "{}", table(&head, self.methods.iter().map(|method| self.row(method))).trim_end())?;
        for left in &self.left_out {
            writeln!(f, "left out: {}, {}", left.name, left.why)?;
        }
        let Some(whole) = self.whole else {
            if let Some(RankedBy { name, fitted_on, judged_by, expected_seconds }) = &self.repair {
                let took = expected_seconds.map_or_else(String::new, |own| format!(", some {} s each", seconds(own)));
                let (fits, judges) = (fitted_on.sequences, judged_by.sequences);
                writeln!(f, "each different choice: {name}, fitted on {fits} sequences, judged by {judges}{took}")?;
            }
            return write!(f, "\ndry run: nothing measured, nothing written");
        };
        writeln!(f, "\nx goes, · stays, a and m: its attention or MLP alone goes")?;
        writeln!(f, "losses in nats a token, {whole:.4} uncut; errors are those of differences, sequence by sequence")?;
        let mut times: Vec<u64> = self.methods.iter().filter_map(|row| Some(row.seconds?.to_bits())).collect();
        let all = times.len();
        times.sort_unstable();
        times.dedup();
        if times.len() < all {
            writeln!(f, "methods with the same seconds were computed together, in that time")?;
        }
        if let (Some(passes), Some(took)) = (self.loss_layer_passes, self.loss_seconds) {
            writeln!(f, "all losses came of one pass: {passes} layers for each token, {} s", seconds(took))?;
        }
        if let Some(RankedBy { name, fitted_on, judged_by, .. }) = &self.repair {
            let TextSize { sequences, tokens } = judged_by;
            writeln!(
                f,
                "judged: the loss of {sequences} of the sequences ({tokens} tokens); repaired: the same after {name}, fitted on \
                 the other {}",
                fitted_on.sequences
            )?;
        }
        if let Some(choice) = self.methods.first().and_then(|row| row.choice.as_ref()) {
            let drop = choice.dropped.to_string().replace(", ", ",").replace("..=", "-");
            let format = if choice.dropped.are_layers() { "" } else { " --format per-layer" };
            let repair = self.repair.as_ref().map_or_else(String::new, |own| {
                format!(" --repair {} --data {} --samples {samples} --seq-len {}", own.name, shown(data), self.seq_len)
            });
            writeln!(f, "the best: prune cut {} --drop {drop}{format}{repair} -o DIR", shown(model))?;
        }
        match &self.out {
            Some(out) => write!(f, "wrote {}", out.join("methods.json").display()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::parse_drop;

    #[test]
    fn a_strip_has_a_character_a_layer() {
        let of = |text: &str| strip(&parse_drop(text, 8).unwrap(), 8);
        assert_eq!(of("1-2,6"), "·xx···x·");
        assert_eq!(of("0,attn:1,mlp:2-3,attn:3"), "xamx····");
    }
}
