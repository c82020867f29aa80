//! An analysis as people look at it: figures, tables, strips.

use std::fmt::Write as _;

use super::analyze::{AnalyzeReport, AskedReport, PassReport};
use super::{barrier_view, texts_view};
use crate::Result;
use crate::checkpoint::ByteSize;
use crate::importance::{Analysis, Kept, Order, Rise, Subject, metric};
use crate::plan::{Plan, SubLayer};
use crate::report::{
    BestRow, Figure, HeatMap, LineChart, Paint, PictureFormat, Point, Series, Triangle, best_table, strip, triangle_map,
};

/// Curves of the distance chart at most; more would not be told apart.
const CURVES: usize = 6;

const DRY: &str = "dry run: nothing measured, nothing written\n";

/// The scores the search followed.
pub(super) fn triangle(analysis: &Analysis) -> Result<Triangle> {
    let name = &analysis.search.metric;
    let metric = metric(name)?;
    let best = match metric.subject {
        Subject::Block => analysis.search.best.iter().map(|choice| choice.drop.first().copied()).collect(),
        _ => {
            vec![analysis.search.best.first().and_then(|choice| choice.drop.first().copied())]
        }
    };
    let dropped = dropped(analysis);
    Ok(Triangle {
        rows: analysis.scores(name)?.mean.clone(),
        best,
        chosen: dropped.as_ref().map(Vec::len),
        dropped: dropped.unwrap_or_default(),
        highest_first: metric.order == Order::Highest,
    })
}

/// What the numbers of sub-layers mean.
const PARTS: &str = "sub-layer: 2l is the attention of layer l, 2l+1 its MLP";

/// Whether the search is among sub-layers.
fn is_fine(analysis: &Analysis) -> bool {
    metric(&analysis.search.metric).is_ok_and(|metric| metric.subject == Subject::SubLayer)
}

/// What the plan drops, in the units of the search.
fn dropped(analysis: &Analysis) -> Option<Vec<usize>> {
    let plan = analysis.plan.as_ref()?;
    if !is_fine(analysis) {
        return Some(plan.dropped());
    }
    let gone = plan.gone();
    let lacks = |own: &usize| {
        let without = gone.sublayers.get(&(own / 2)).copied().unwrap_or_default();
        gone.layers.contains(&(own / 2)) || without.contains(SubLayer::ALL[own % 2])
    };
    Some((0..2 * plan.planned_for.layers).filter(lacks).collect())
}

/// What a score is, in words.
pub(super) fn measure(analysis: &Analysis) -> String {
    match analysis.search.metric.as_str() {
        "angular" => "angular distance".to_owned(),
        "loss" | "layer-loss" => "rise of the loss".to_owned(),
        "accuracy" | "layer-accuracy" | "sublayer-accuracy" => "lost accuracy".to_owned(),
        "cka" => "CKA".to_owned(),
        other => other.replace('-', " "),
    }
}

pub(super) fn subtitle(analysis: &Analysis) -> String {
    let data = &analysis.data;
    let of_questions = metric(&analysis.search.metric).is_ok_and(|metric| metric.value.asks_questions());
    match &data.asked {
        Some(asked) if of_questions => format!("{} questions of {}", asked.questions, asked.tasks.join(", ")),
        _ if data.samples == 0 => "weights alone".to_owned(),
        _ => {
            let of = match analysis.texts.len() {
                0 => data.source.clone(),
                several => format!("{several} texts"),
            };
            format!("{} samples, {} tokens of {of}", data.samples, data.tokens)
        }
    }
}

/// Files of the figures: heat map and curves, and what lies between two models.
pub(super) fn figures(analysis: &Analysis) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let scores = triangle(analysis)?;
    let measure = measure(analysis);
    let plan = analysis.plan.as_ref().map(|plan| format!("plan: drop {}", plan.gone()));
    let heat_map = HeatMap {
        title: format!("{}: {measure} of every {}", analysis.model.id, if is_fine(analysis) { PARTS } else { "block" }),
        subtitle: subtitle(analysis),
        measure: measure.clone(),
        plan: plan.unwrap_or_default(),
        scores: scores.clone(),
        note: String::new(),
        format: PictureFormat::Sheet,
    };
    let curves = curves(analysis, &scores, &measure)?;
    let mut files = vec![
        ("heatmap.svg", heat_map.svg()?.into_bytes()),
        ("heatmap.png", heat_map.png()?),
        ("curves.svg", curves.svg()?.into_bytes()),
        ("curves.png", curves.png()?),
    ];
    if let Some(barriers) = barrier_view::chart(analysis) {
        files.push(("barriers.svg", barriers.svg()?.into_bytes()));
        files.push(("barriers.png", barriers.png()?));
    }
    Ok(files)
}

/// The score against l for a few n, the plan's among them.
fn curves(analysis: &Analysis, scores: &Triangle, measure: &str) -> Result<LineChart> {
    let rows = scores.shown_rows();
    let mut sizes: Vec<usize> = (0..CURVES).map(|i| (1 << i).min(rows)).collect();
    sizes.extend(scores.chosen.filter(|n| *n <= rows));
    sizes.sort_unstable();
    sizes.dedup();
    let values = analysis.scores(&analysis.search.metric)?;
    let series = sizes.into_iter().map(|n| Series {
        name: format!("n = {n}"),
        points: (0..scores.rows[n - 1].len())
            .map(|l| Point { x: l as f64, y: scores.rows[n - 1][l], error: values.error(n, l).unwrap_or(0.0) })
            .collect(),
        marked: scores.best.get(n - 1).copied().flatten(),
        ..Series::default()
    });
    Ok(LineChart {
        title: format!("{}: {measure} against depth", analysis.model.id),
        subtitle: subtitle(analysis),
        across: if is_fine(analysis) { PARTS } else { "first layer of the block, l" }.to_owned(),
        up: measure.to_owned(),
        legend: "block size".to_owned(),
        series: series.collect(),
        ..LineChart::default()
    })
}

impl AnalyzeReport {
    /// The report for a terminal.
    #[must_use]
    pub fn text(&self, color: bool) -> String {
        let mut text = String::new();
        match &self.pass {
            Some(pass) => pass_text(pass, &mut text),
            None if self.analysis.is_none() => text.push_str(DRY),
            None => {}
        }
        if let (Some(group), Some(_)) = (&self.group, &self.pass) {
            let _ = writeln!(text, "{}", group.text());
        }
        if let Some(analysis) = &self.analysis {
            analysis_text(analysis, if color { Paint::Color } else { Paint::Blocks }, &mut text);
        }
        for path in &self.written {
            let _ = writeln!(text, "wrote {}", path.display());
        }
        text
    }
}

fn pass_text(pass: &PassReport, text: &mut String) {
    if pass.seconds.is_none() && !pass.texts.is_empty() {
        let _ = writeln!(text, "{}", texts_view::used(&pass.texts));
    }
    if pass.samples > 0 {
        let _ = write!(text, "{} samples, {} tokens; ", pass.samples, pass.tokens);
    }
    let place = format!("layers {}", pass.residency.says());
    let layers = match pass.layer_passes {
        0 => String::new(),
        passes => format!("{passes} layers a token, "),
    };
    let _ = write!(
        text,
        "{layers}{place}, {} of weights at once, cap {}",
        ByteSize(pass.weight_bytes),
        ByteSize(pass.memory_bytes)
    );
    if let Some(asked) = &pass.questions {
        let (tasks, AskedReport { questions, tokens, layer_passes, .. }) = (asked.tasks.join(", "), asked);
        let _ = write!(text, "; {questions} questions of {tasks}, {tokens} tokens, {layer_passes} layers a token");
    }
    if let Some(against) = &pass.against {
        let _ = write!(text, "\n{}", against.text());
    }
    match pass.seconds {
        Some(seconds) if pass.questions.is_some() => {
            let _ = writeln!(text, "; {seconds:.1} s\n");
        }
        Some(seconds) => {
            let _ = writeln!(text, "; {seconds:.1} s, {:.0} tokens/s\n", pass.tokens as f64 / seconds);
        }
        None => {
            text.push('\n');
            text.push_str(DRY);
        }
    }
}

fn analysis_text(analysis: &Analysis, paint: Paint, text: &mut String) {
    let subject = metric(&analysis.search.metric).map_or(Subject::Block, |metric| metric.subject);
    let chosen = dropped(analysis).map(|units| units.len());
    let rows: Vec<BestRow> = analysis
        .search
        .best
        .iter()
        .map(|choice| BestRow {
            n: choice.layers(),
            drop: subject.gone(&choice.drop).to_string(),
            score: (choice.score, choice.stderr),
            runner_up: choice
                .runner_up
                .as_ref()
                .map(|next| (subject.gone(&next.drop).to_string(), next.difference, next.difference_stderr)),
            rivals: choice.rivals.len(),
            is_chosen: chosen == Some(choice.layers()),
        })
        .collect();
    let _ = writeln!(text, "{}", best_table(&measure(analysis), &rows).trim_end());
    for table in [loss_table(analysis), accuracy_table(analysis)].into_iter().flatten() {
        let _ = writeln!(text, "\n{table}");
    }
    // they number layers
    if let (Ok(scores), false) = (triangle(analysis), is_fine(analysis)) {
        text.push('\n');
        if let Some(map) = triangle_map(&scores, paint) {
            let _ = writeln!(text, "{}", map.trim_end());
        }
        if let Some(n) = chosen {
            let _ = writeln!(text, "\n{}", strip(&scores, n, paint).trim_end());
        }
    }
    if let Some(table) = layer_table(analysis) {
        let _ = writeln!(text, "\n{}", table.trim_end());
    }
    if let Some(texts) = texts_view::texts(analysis, chosen) {
        let _ = writeln!(text, "\n{}", texts.trim_end());
    }
    if let Some(notations) = analysis.plan.as_ref().and_then(Plan::notations) {
        let _ = writeln!(text, "\n{notations}");
    }
}

/// A difference and its error: `+0.1234 ± 0.0056`.
pub(super) fn signed(value: f64, error: Option<f64>) -> String {
    let error = error.map(|error| format!(" ± {error:.4}")).unwrap_or_default();
    format!("{value:+.4}{error}")
}

/// What the loss rises by without each choice where that was measured, and what the scores alone would have chosen.
fn loss_table(analysis: &Analysis) -> Option<String> {
    let subject = metric(&analysis.search.metric).map_or(Subject::Block, |metric| metric.subject);
    let rise = |rise: &Rise| signed(rise.mean, rise.stderr);
    let mut lines = Vec::new();
    for choice in &analysis.search.best {
        let Some(loss) = &choice.loss else { continue };
        let mut line = format!("{:>3}  {:<20}  {}", choice.layers(), rise(loss), subject.gone(&choice.drop));
        if let Some(first) = choice.short_list.iter().find(|listed| listed.rank == 1 && listed.drop != choice.drop) {
            let _ = write!(line, "; by score alone {}, {}", subject.gone(&first.drop), rise(&first.loss));
        }
        lines.push(line);
    }
    let of =
        analysis.search.rerank.map_or_else(String::new, |k| format!(", the best by loss of the {k} best by score"));
    (!lines.is_empty()).then(|| format!("  n  rise of the loss      drop{of}\n{}", lines.join("\n")))
}

/// The accuracy without each choice, where questions were asked.
fn accuracy_table(analysis: &Analysis) -> Option<String> {
    let subject = metric(&analysis.search.metric).map_or(Subject::Block, |metric| metric.subject);
    let known = analysis.search.best.iter().filter_map(|choice| Some((choice, choice.accuracy?)));
    let lines: Vec<String> = known
        .map(|(choice, Kept { whole, without, difference_stderr })| {
            let lost = signed(without - whole, difference_stderr);
            format!("{:>3}  {without:<8.4}  {lost:<18}  {}", choice.layers(), subject.gone(&choice.drop))
        })
        .collect();
    let (whole, asked) = (analysis.search.best.iter().find_map(|choice| choice.accuracy)?.whole, &analysis.data.asked);
    let tasks = asked.as_ref().map_or_else(String::new, |asked| asked.tasks.join(", "));
    Some(format!("  n  accuracy  of {whole:.4}           drop; {tasks}\n{}", lines.join("\n")))
}

/// The scores that were asked for by name and are no blocks', a line a layer; columns of sub-layers are two.
fn layer_table(analysis: &Analysis) -> Option<String> {
    let mut columns: Vec<(String, Vec<f64>)> = Vec::new();
    for scores in &analysis.scores {
        let metric = metric(&scores.metric).ok()?;
        let values = scores.mean.first()?;
        let every_other = |first: usize| values.iter().skip(first).step_by(2).copied().collect();
        match metric.subject {
            _ if metric.usual => {}
            Subject::Block | Subject::LayerPair | Subject::SubLayerPair => {}
            Subject::SubLayer => {
                columns.push((format!("{}:attn", metric.name), every_other(0)));
                columns.push((format!("{}:mlp", metric.name), every_other(1)));
            }
            Subject::Layer | Subject::Depth => {
                let mark = if metric.order == Order::Highest { "*" } else { "" };
                columns.push((format!("{}{mark}", metric.name), values.clone()));
            }
        }
    }
    // what the plan follows is shown above
    if columns.iter().all(|(name, _)| name == "layer-loss") {
        return None;
    }
    let lines = columns.iter().map(|(_, values)| values.len()).max()?;
    let mut text = format!("{:>5}", "layer");
    let widths: Vec<usize> = columns.iter().map(|(name, _)| name.chars().count().max(10) + 2).collect();
    for ((name, _), width) in columns.iter().zip(&widths) {
        let _ = write!(text, "{name:>width$}");
    }
    for line in 0..lines {
        let _ = write!(text, "\n{line:>5}");
        for ((_, values), width) in columns.iter().zip(&widths) {
            let value = values.get(line).map_or_else(String::new, |value| number(*value));
            let _ = write!(text, "{value:>width$}");
        }
    }
    if columns.iter().any(|(name, _)| name.ends_with('*')) {
        text.push_str("\n* the highest go first; of all others the lowest");
    }
    if let Some(note) = barrier_view::note(analysis) {
        let _ = write!(text, "\n{note}");
    }
    Some(text)
}

/// Four significant digits.
fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.3e}");
    }
    let digits = if size < 1.0 { 4 } else { 3usize.saturating_sub(size.log10() as usize) };
    format!("{value:.digits$}")
}
