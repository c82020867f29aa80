//! WikiText, page by page.

use serde_json::{Value, json};

use super::detokenize::detokenize;
use super::rolling::Rolling;
use super::{About, Config, Release, Sampler};
use crate::eval::fields::Fields;
use crate::eval::python::strip;

pub(super) const TASK: Rolling = Rolling {
    about: About {
        name: "wikitext",
        title: "WikiText",
        dataset: "EleutherAI/wikitext_document_level",
        config: Config::Named("wikitext-2-raw-v1"),
        split: "test",
        sampler: Sampler::Drawn,
        release: Release::Documents(documents),
        version: 2.0,
        definition: r#"{"doc_to_text": "", "doc_to_target": "!function preprocess_wikitext.wikitext_detokenizer", "process_results": "!function preprocess_wikitext.process_results"}"#,
        ..About::TEXT
    },
    prepare: Ok,
    field: "page",
    tidy: detokenize,
};

/// The pages of a row of WikiText's own files, which hold all of them in one text.
fn documents(row: &Fields) -> Option<Vec<Fields>> {
    let text = row.get("text").and_then(Value::as_str).filter(|_| !row.contains_key("page"))?;
    let row = |page| Fields::from_iter([("page".to_owned(), json!(page))]);
    Some(pages(text).into_iter().map(row).collect())
}

/// A page starts at a title of one `=`.
fn pages(text: &str) -> Vec<String> {
    let mut pages = Vec::new();
    let mut page: Vec<&str> = Vec::new();
    for line in text.split('\n') {
        let title = line.replace("= = =", "===").replace("= =", "==");
        let title = strip(&title);
        if title.starts_with("= ") && title.ends_with(" =") {
            let whole = page.join("\n");
            if !strip(&whole).is_empty() {
                pages.push(whole);
            }
            page.clear();
        }
        page.push(line);
    }
    pages.push(page.join("\n"));
    pages
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;

    /// The digest is of what the reference's own function makes of the 62 pages.
    #[test]
    fn all_of_wikitext() {
        let Some(path) = crate::material::shared("data/wikitext2/wiki.test.raw") else { return };
        let text = std::fs::read_to_string(path).unwrap();
        let pages = pages(&text);
        assert_eq!(pages.len(), 62);
        let tidy: Vec<String> = pages.iter().map(|page| detokenize(page)).collect();
        let digest = format!("{:x}", sha2::Sha256::digest(tidy.join("\0")));
        assert_eq!(digest, "b0ae50e166add20959a5406d9b3c99fe1f23819ec0a10149047149434fb85d81");
    }
}
