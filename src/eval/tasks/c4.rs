//! C4's validation texts.

use serde_json::{Value, json};

use super::detokenize::detokenize;
use super::rolling::Rolling;
use super::{About, Config};
use crate::Result;
use crate::eval::fields::Fields;

pub(super) const TASK: Rolling = Rolling {
    about: About {
        name: "c4",
        title: "C4",
        dataset: "allenai/c4",
        config: Config::Named("en"),
        file: Some("en/c4-validation.00000-of-00008.json.gz"),
        version: 0.0,
        definition: r#"{"doc_to_text": "", "doc_to_target": "!function preprocess_c4.c4_detokenizer", "process_results": "!function preprocess_c4.process_results"}"#,
        ..About::TEXT
    },
    prepare,
    field: "text",
    tidy: detokenize,
};

/// The reference's JSON reader takes C4's time stamps for dates, which its hashes show.
fn prepare(mut row: Fields) -> Result<Fields> {
    let stamp = row.get("timestamp").and_then(Value::as_str);
    let date = stamp.and_then(|stamp| stamp.strip_suffix('Z')).and_then(|stamp| stamp.split_once('T'));
    if let Some((day, time)) = date {
        let date = format!("{day} {time}");
        row.insert("timestamp".to_owned(), json!(date));
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stamps_become_dates() {
        let row = json!({"timestamp": "2019-04-25T12:57:54Z", "text": "t"});
        let Value::Object(row) = row else { panic!("an object") };
        assert_eq!(prepare(row).unwrap()["timestamp"], "2019-04-25 12:57:54");
    }
}
