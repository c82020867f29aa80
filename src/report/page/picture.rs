//! Figures inside the page: drawn for wide and narrow screens, in the inks of light and dark ones.

use maud::{Markup, PreEscaped, html};

use super::super::canvas::Figure;
use super::super::format::PictureFormat;
use super::super::palette;
use super::figures::{Drawing, NamedFigure};
use super::words::upper_first;
use crate::Result;

/// The figure with its words; CSS shows the drawing that fits.
///
/// # Errors
/// The drawing's.
pub(super) fn picture(figure: &NamedFigure) -> Result<Markup> {
    let wide = inline(figure, PictureFormat::Column, "wide")?;
    let narrow = inline(figure, PictureFormat::Phone, "narrow")?;
    let is_map = matches!(figure.drawing, Drawing::Map(_));
    Ok(html! {
        figure id=(figure.name) class=[is_map.then_some("map")] {
            figcaption {
                h3 { (upper_first(&figure.title)) }
                p { (upper_first(&figure.caption)) "." }
            }
            (PreEscaped(wide)) (PreEscaped(narrow))
        }
    })
}

/// The drawing as an element of the page, with title and description for those who do not see it.
fn inline(figure: &NamedFigure, format: PictureFormat, class: &str) -> Result<String> {
    let svg = figure.drawing.with_format(format).svg()?;
    let (title, description) = (format!("{}-{class}-title", figure.name), format!("{}-{class}-text", figure.name));
    let words = html! {
        title id=(title) { (figure.title) }
        desc id=(description) { (figure.description) }
    };
    let open =
        format!("<svg class=\"{class}\" role=\"img\" aria-labelledby=\"{title}\" aria-describedby=\"{description}\" ");
    let svg = svg.replacen("<svg ", &open, 1);
    Ok(svg.replacen('>', &format!(">{}", words.into_string()), 1))
}

/// CSS that replaces every ink of the figures on a dark page.
pub(super) fn dark_inks() -> String {
    let rules = palette::replaced().map(|ink| {
        let (light, dark) = (palette::hex(ink.light), palette::hex(ink.dark));
        let kind = if palette::is_paper(ink) { "" } else { ":not(.map)" };
        let at = |attribute: &str| format!("figure{kind} [{attribute}=\"{light}\"]{{{attribute}:{dark}}}");
        format!("{}{}", at("fill"), at("stroke"))
    });
    format!("@media screen and (prefers-color-scheme:dark){{{}}}", rules.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::figures::figures;
    use super::super::sample::sweep;
    use super::*;

    #[test]
    fn a_dark_page_replaces_every_ink_of_a_chart() {
        let rules = dark_inks();
        for figure in figures(&sweep()) {
            let Drawing::Curves(_) = figure.drawing else { continue };
            for format in [PictureFormat::Sheet, PictureFormat::Column, PictureFormat::Phone] {
                let svg = figure.drawing.with_format(format).svg().unwrap();
                for attribute in ["fill", "stroke"] {
                    for (at, _) in svg.match_indices(&format!("{attribute}=\"#")) {
                        let ink = &svg[at..at + attribute.len() + 10];
                        assert!(rules.contains(&format!("[{ink}]{{{attribute}:#")), "{} {ink}", figure.name);
                    }
                }
            }
        }
    }

    #[test]
    fn pictures_say_what_they_show() {
        let figure = &figures(&sweep())[0];
        let text = picture(figure).unwrap().into_string();
        assert!(text.contains("<title id=\"scores-mmlu-acc-wide-title\">MMLU accuracy</title>"));
        assert!(text.contains("similarity: 0.800 ± 0.020 at 0, 0.796 ± 0.020 at 0.0625"), "{text}");
        // on the page, the title stands above the picture, and the caveat at the page's head: not in it
        assert!(!text.contains("atlas/model") && !text.contains("These numbers were made for a test."));
        assert!(figure.drawing.svg().unwrap().contains("atlas/model: MMLU accuracy"));
        assert!(figure.drawing.svg().unwrap().contains("These numbers were made for a test."));
    }
}
