//! BoolQ, as SuperGLUE has it.

use serde_json::{Value, json};

use super::choice::{MultipleChoice, Question};
use super::{ACC, About, Config};
use crate::eval::fields::{Fields, number, text, value, wrong};
use crate::{Error, Result};

pub(super) const TASK: MultipleChoice = MultipleChoice {
    about: About {
        name: "boolq",
        title: "BoolQ",
        dataset: "aps/super_glue",
        config: Config::Named("boolq"),
        metrics: ACC,
        version: 2.0,
        definition: r#"{"doc_to_text": "{{passage}}\nQuestion: {{question}}?\nAnswer:", "doc_to_target": "label", "doc_to_choice": ["no", "yes"]}"#,
        ..About::CHOICE
    },
    prepare,
    question,
    description: |_| String::new(),
};

/// The original release keeps the title apart and says `answer`; SuperGLUE, whose text the reference uses, has it in
/// the passage and says `label`.
fn prepare(mut row: Fields) -> Result<Fields> {
    if row.contains_key("label") {
        return Ok(row);
    }
    let Some(title) = row.get("title").and_then(Value::as_str) else {
        return Err(Error::work(
            "field label is missing, and there is no title to make SuperGLUE's passage from: \
             google/boolq gives other prompts than the reference, take aps/super_glue (boolq)",
        ));
    };
    let passage = format!("{title} -- {}", text(&row, "passage")?);
    let label = usize::from(value(&row, "answer")?.as_bool().ok_or_else(|| wrong("answer", "true or false"))?);
    row.insert("passage".to_owned(), json!(passage));
    row.insert("label".to_owned(), json!(label));
    Ok(row)
}

fn question(row: &Fields) -> Result<Question> {
    let context = format!("{}\nQuestion: {}?\nAnswer:", text(row, "passage")?, text(row, "question")?);
    let label = value(row, "label")?;
    let gold = label.as_bool().map_or_else(|| number(row, "label"), |yes| Ok(usize::from(yes)))?;
    Question::new(context, vec!["no".to_owned(), "yes".to_owned()], gold, label)
}
