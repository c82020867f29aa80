//! The report of a whole job: one page that needs no other file, no network and no script.

mod advice;
mod choices;
mod comparisons;
mod cuts;
mod data;
mod figures;
mod findings;
mod picture;
#[cfg(test)]
mod sample;
mod story;
mod summary;
mod tables;
mod verdict;
mod words;

use maud::{DOCTYPE, Markup, PreEscaped, html};

pub(crate) use self::advice::advice;
pub use self::data::{NamedTable, tables};
use self::figures::Part;
pub use self::figures::{Drawing, NamedFigure, figures};
pub(crate) use self::story::story;
pub use self::verdict::mark;
use super::run::RunData;
use crate::Result;
use crate::shown::shown_lines;

/// Nothing may be loaded or run, from anywhere.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// The page.
///
/// # Errors
/// Work: a figure or a table cannot be drawn or written.
pub fn page(data: &RunData) -> Result<String> {
    let figures = figures(data);
    let part = |part: Part| -> Result<Vec<Markup>> {
        figures.iter().filter(|figure| figure.part == part).map(picture::picture).collect()
    };
    let (scores, blocks, healing) = (part(Part::Scores)?, part(Part::Blocks)?, part(Part::Healing)?);
    let downloads = tables(data)?;
    let choices = choices::table(data);
    let of_blocks = html! { @if !blocks.is_empty() { @for figure in blocks.iter().take(1) { (figure) } div.pair { @for figure in blocks.iter().skip(1) { (figure) } (tables::best_blocks(data)) } } };
    let sections = [
        (
            "scores",
            "Scores against layers dropped",
            (!scores.is_empty()).then(|| html! { div.pair { @for figure in &scores { (figure) } } }),
        ),
        (
            "layers",
            "Which layers",
            (!blocks.is_empty() || choices.is_some())
                .then(|| html! { @if let Some(choices) = &choices { (choices) } (of_blocks) }),
        ),
        (
            "healing",
            "Healing",
            tables::healings(data).map(|table| html! { (table) div.pair { @for figure in &healing { (figure) } } }),
        ),
        ("models", "Every model", Some(html! { (tables::models(data)) (tables::subjects(data)) })),
        ("origin", "Settings and origin", Some(html! { (tables::origin(data)) (data::downloads(&downloads)) })),
    ];
    let sections: Vec<(&str, &str, Markup)> =
        sections.into_iter().filter_map(|(id, title, content)| Some((id, title, content?))).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (data.model) " – prune" }
                link rel="icon" href="data:,";
                style { (PreEscaped(include_str!("style.css"))) (PreEscaped(picture::dark_inks())) }
            }
            body {
                header {
                    p.kind { "prune: report of a run" }
                    h1 { (data.model) }
                    p { (data.family) ", " (words::plural(data.dense.layers, "layer")) ", " (words::count(data.dense.parameters)) " parameters" }
                    nav aria-label="Parts of the report" {
                        a href="#summary" { "Summary" }
                        @for (id, title, _) in &sections { a href={ "#" (id) } { (title) } }
                    }
                }
                main {
                    section #summary aria-labelledby="summary-title" {
                        h2 #summary-title { "Summary" }
                        (summary::summary(data))
                    }
                    @for (id, title, content) in &sections {
                        section id=(id) aria-labelledby={ (id) "-title" } {
                            h2 id={ (id) "-title" } { (title) }
                            (content)
                        }
                    }
                }
            }
        }
    };
    Ok(shown_lines(&page.into_string()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::canvas::Figure;
    use super::super::run::{Score, ScoreColumn};
    use super::sample::{one, repaired, sweep};
    use super::*;

    /// The page has what it must, whatever the run; every figure can be seen.
    fn look(data: &RunData) -> String {
        let page = page(data).unwrap();
        assert_eq!(page, super::page(data).unwrap());
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
        for tag in [
            "html",
            "head",
            "body",
            "main",
            "section",
            "figure",
            "figcaption",
            "svg",
            "table",
            "tr",
            "th",
            "td",
            "ul",
            "dl",
            "details",
        ] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert_eq!(page.matches("<h1>").count(), 1);
        // nothing from elsewhere: the only address is the name of SVG
        let bare = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        assert!(!bare.contains("http://") && !bare.contains("https://") && !bare.contains("url("));
        for tag in [
            "<script",
            "<img",
            "<iframe",
            "<object",
            "<embed",
            "<link rel=\"stylesheet\"",
            "@import",
            " src=",
            "onclick",
        ] {
            assert!(!page.contains(tag), "{tag}");
        }
        assert!(page.contains(&format!("http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"")));
        let figures = figures(data);
        for figure in &figures {
            assert!(figure.drawing.svg().unwrap().ends_with("</svg>\n"));
            assert!(figure.drawing.png().unwrap().starts_with(b"\x89PNG"));
            for class in ["wide", "narrow"] {
                let name = &figure.name;
                assert!(page.contains(&format!(
                    "<svg class=\"{class}\" role=\"img\" aria-labelledby=\"{name}-{class}-title\""
                )));
            }
        }
        let mut names: Vec<&String> = figures.iter().map(|figure| &figure.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), figures.len());
        page
    }

    #[test]
    fn a_sweep_and_one_cut() {
        let data = sweep();
        let text = look(&data);
        for variant in data.all() {
            for score in variant.scores.iter().flatten() {
                assert!(text.contains(&words::with_error(score.value, score.stderr)), "{score:?}");
            }
        }
        for words in
            ["3.22 M", "9..=12", "11..=14", "These numbers were made for a test.", "model = &quot;atlas/model&quot;"]
        {
            assert!(text.contains(words), "{words}");
        }
        let names: Vec<String> = figures(&data).into_iter().map(|figure| figure.name).collect();
        assert_eq!(
            names,
            [
                "scores-mmlu-acc",
                "scores-text-loss",
                "distances",
                "distance-curves",
                "healing-similarity",
                "healing-deepest"
            ]
        );
        let text = look(&one());
        assert!(text.contains("Layers 9..=12 of the 16 were dropped"));
        // the cut is the block that the distances chose
        assert!(text.contains("dropped: 9..=12"));
    }

    #[test]
    fn repairs_have_their_columns_and_curves() {
        let text = look(&repaired());
        for words in
            ["repaired by", "similarity + refit, healed", "dashed: not healed", "similarity 9..=12 + refit, healed"]
        {
            assert!(text.contains(words), "{words}");
        }
        let names: Vec<String> = figures(&repaired()).into_iter().map(|figure| figure.name).collect();
        assert!(names.iter().any(|name| name == "healing-deepest-refit"), "{names:?}");
        assert!(!look(&sweep()).contains("repaired"));
    }

    #[test]
    fn little_is_known() {
        let mut data = one();
        data.distances = None;
        data.caveat = None;
        data.variants.truncate(1);
        data.recipe.clear();
        data.provenance.clear();
        data.dense.speed = None;
        data.variants[0].speed = None;
        let text = look(&data);
        assert!(
            !text.contains("id=\"layers\"") && !text.contains("id=\"healing\"") && !text.contains("Memory, computed")
        );
        data.variants.clear();
        data.measures.clear();
        assert!(look(&data).contains("Nothing was cut"));
    }

    #[test]
    fn many_layers_and_subjects() {
        let mut data = sweep();
        let subject = data.measures[1].clone();
        data.measures.extend((0..57).map(|index| ScoreColumn { title: format!("subject {index}"), ..subject.clone() }));
        let distances = data.distances.as_mut().unwrap();
        distances.mean = (1..=80).map(|n| (0..=80 - n).map(|l| (n * l % 7) as f64).collect()).collect();
        distances.stderr.clear();
        distances.best = vec![Some(0); 80];
        data.dense.layers = 80;
        assert!(look(&data).contains("subject 56"));
        // scores of single layers are one row
        let distances = data.distances.as_mut().unwrap();
        distances.mean.truncate(1);
        distances.best.truncate(1);
        assert!(look(&data).contains("Angular distance of every layer"));
    }

    #[test]
    fn names_are_only_text() {
        let mut data = one();
        let evil = "<script>alert('1')</script>\"><img src=x onerror=\"y\">&amp; {{".to_owned();
        data.model = format!("/a/very/long/path/{}/{evil}", "deep/".repeat(60));
        data.family = evil.clone();
        data.caveat = Some(evil.clone());
        data.recipe = format!("{evil}</code></pre>");
        data.provenance = vec![(evil.clone(), evil.clone())];
        for variant in &mut data.variants {
            variant.strategy = Some(evil.clone());
            variant.dir.clone_from(&evil);
        }
        data.measures.iter_mut().for_each(|measure| (measure.task, measure.title) = (evil.clone(), evil.clone()));
        let distances = data.distances.as_mut().unwrap();
        (distances.title, distances.text) = (evil.clone(), evil.clone());
        let text = page(&data).unwrap();
        for wrong in ["<script", "<img", "</code></pre></code>", "&amp;amp;amp;"] {
            assert!(!text.contains(wrong), "{wrong}");
        }
        assert!(text.contains(
            "&lt;script&gt;alert('1')&lt;/script&gt;&quot;&gt;&lt;img src=x onerror=&quot;y&quot;&gt;&amp;amp; {{"
        ));
    }

    #[test]
    fn numbers_at_their_ends() {
        let mut data = sweep();
        let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 1.0, 1e300, -1e300, 1e-300];
        for (index, variant) in data.variants.iter_mut().enumerate() {
            for (place, score) in variant.scores.iter_mut().enumerate() {
                let value = values[(index + place) % values.len()];
                let stderr = Some(values[(index + 2 * place) % values.len()]).filter(|_| index % 3 > 0);
                *score = Some(Score { value, stderr, documents: index % 2 * 400, ..Score::default() });
            }
            let speed = variant.speed.as_mut().unwrap();
            (speed.prompt, speed.first_token) = (values[index % 8], values[(index + 1) % 8]);
            if let Some(healing) = &mut variant.healing {
                healing.training.iter_mut().zip(values).for_each(|((_, loss), value)| *loss = value);
                healing.best_loss = Some(values[index % 8]);
            }
        }
        let distances = data.distances.as_mut().unwrap();
        for (row, value) in distances.mean.iter_mut().zip(values) {
            row[0] = value;
        }
        distances.best[2] = Some(99);
        distances.stderr[0] = vec![f64::NAN; 3];
        data.variants[3].scores.clear();
        data.variants[4].dropped = [40, 7, 7].into_iter().collect();
        let text = look(&data);
        // CSV keeps the names that other programs read
        let seen = text.split("The numbers as CSV").next().unwrap();
        assert!(!seen.contains("NaN") && !seen.contains(">inf") && text.contains("NaN"));
    }
}
