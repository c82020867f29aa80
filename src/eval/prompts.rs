//! Examples in front of questions: what the model is asked, document by document.

use std::sync::Arc;

use super::chat::AppliedTemplate;
use super::examples::Examples;
use super::fields::Fields;
use super::gen_kwargs::Told;
use super::request::Request;
use super::room::Room;
use super::select::Leaf;
use super::settings::EvalSettings;
use super::shots::{self, Message, Shots};
use super::source::TaskSource;
use super::tasks::Task;
use crate::data::Row;
use crate::progress::Progress;
use crate::{Context, Result};

/// A document and what is asked about it.
#[derive(Clone, Debug)]
pub struct AskedDocument {
    /// Position in its split.
    pub id: usize,
    /// The prepared row, part of the reference's hashes.
    pub row: Fields,
    /// The reference's `str(target)`, part of its hashes too.
    pub target: String,
    /// What the model is asked.
    pub requests: Vec<Request>,
}

impl AskedDocument {
    /// Bytes of text that are tokenised, about.
    pub(super) fn bytes(&self) -> usize {
        self.requests.iter().map(Request::bytes).sum()
    }
}

/// All documents of one task.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// Examples in front of every question.
    pub shots: usize,
    /// Documents of the split, before any limit; unknown where a limit ended the reading before the split did.
    pub total: Option<usize>,
    /// Documents that are scored.
    pub documents: Vec<AskedDocument>,
}

/// Rows beyond a limit that are counted, at most: a small file may say that it has millions.
const COUNTED: usize = 1_000_000;

/// Reads the data of `leaf` and puts examples in front of each question, as `few_shot`, `limit` and `seed` of the
/// settings say, and all of it into a conversation where there is a template. A limit ends the reading, but that the
/// rows of small files are counted. All that is kept takes `room`.
///
/// # Errors
/// Data that are not there (the subject named), a malformed row (file and row named), too few examples, too little
/// room, a template that refuses a document.
pub fn prompts(
    leaf: &Leaf,
    chat: Option<&AppliedTemplate>,
    source: &TaskSource,
    settings: &EvalSettings,
    room: &Room,
    progress: &dyn Progress,
) -> Result<Prompts> {
    let task = leaf.task.about();
    let mut total = None;
    let most = match settings.limit {
        Some(share) if share < 1.0 => {
            let mut rows = 0_usize;
            source.split(leaf, task.split, &room.reading(settings), progress, &mut |_| {
                rows += 1;
                Ok(true)
            })?;
            total = Some(rows);
            (rows as f64 * share).ceil() as usize
        }
        Some(count) => count as usize,
        None => usize::MAX,
    };
    let is_counted = total.is_none() && most < usize::MAX && source.is_small(leaf, task.split, progress)?;
    let mut asker = Asker::open((leaf, chat), source, settings, room, progress)?;
    let mut documents = Vec::new();
    let (mut is_whole, mut beyond) = (true, 0);
    source.split(leaf, task.split, &room.reading(settings), progress, &mut |row| {
        if documents.len() == most {
            is_whole &= is_counted && beyond < COUNTED;
            beyond += 1;
            return Ok(is_whole);
        }
        documents.push(asker.document(documents.len(), row, room)?);
        Ok(true)
    })?;
    Ok(Prompts {
        shots: asker.examples.shots,
        total: total.or(is_whole.then_some(documents.len() + beyond)),
        documents,
    })
}

/// Makes documents of rows.
struct Asker<'a> {
    task: &'static dyn Task,
    chat: Option<&'a AppliedTemplate>,
    examples: Examples<'a>,
    subject: &'a str,
    /// What the system says.
    instruction: &'a str,
    /// Description and examples of the document before, which the next one may share.
    shared: Arc<str>,
    /// How answers are generated, where the user says so.
    told: Option<Told>,
    /// Of draws.
    seed: u64,
}

impl<'a> Asker<'a> {
    fn open(
        (leaf, chat): (&'a Leaf, Option<&'a AppliedTemplate>),
        source: &TaskSource,
        settings: &'a EvalSettings,
        room: &Room,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let examples = Examples::open(leaf, source, settings, room, progress)?;
        let subject = leaf.subject.as_deref().unwrap_or_default();
        let instruction = settings.system_instruction.as_deref().unwrap_or_default();
        let told = Told::of(leaf.task.about(), settings)?;
        let (shared, seed) = (Arc::from(""), settings.seed);
        Ok(Self { task: leaf.task, chat, examples, subject, instruction, shared, told, seed })
    }

    /// The document of a row that stands at `place`, in `room`.
    fn document(&mut self, id: usize, row: Row, room: &Room) -> Result<AskedDocument> {
        let Row { fields, place } = row;
        let row = self.task.prepare(fields).context(|| &place)?;
        let about = self.task.about();
        let description = self.task.described(&row, self.subject).context(|| &place)?;
        let system = shots::system(self.instruction, &description, about);
        let solved = self.examples.pick(&row, room)?.into_iter().flat_map(|example| example.messages(about));
        let messages: Vec<Message> = system.into_iter().chain(solved).collect();
        let shots = if let Some(chat) = self.chat {
            Shots::messages(about, chat, messages)
        } else {
            let text: String = messages.iter().map(Message::text).collect();
            if *self.shared != *text {
                room.text(text.len())?;
                self.shared = Arc::from(text);
            }
            Shots::text(about, self.shared.clone())
        };
        let shots = shots.begun(self.task.prefix(&row).context(|| &place)?);
        let target = self.task.target(&row).context(|| &place)?;
        let mut requests = self.task.requests(&row, &shots).context(|| &place)?;
        requests.iter_mut().for_each(|request| Told::put(self.told.as_ref(), request, self.seed));
        let document = AskedDocument { id, row, target, requests };
        room.document(&document)?;
        Ok(document)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::eval::select::select;
    use crate::material::shared;
    use crate::progress::Silent;

    pub(in crate::eval) const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/golden/eval");

    /// The golden items in the folders a user would have, `train` being the scored split as in the reference run.
    pub(in crate::eval) fn golden_data() -> Option<tempfile::TempDir> {
        let data = shared("golden/eval/data")?;
        let folder = tempfile::tempdir().unwrap();
        for (from, to) in [
            ("boolq/validation", "boolq/validation"),
            ("boolq/train", "boolq/train"),
            ("hellaswag/validation", "hellaswag/validation"),
            ("hellaswag/validation", "hellaswag/train"),
            ("arc/test", "arc_easy/test"),
            ("arc/test", "arc_easy/train"),
            ("arc/test", "arc_challenge/test"),
            ("piqa/validation", "piqa/validation"),
            ("piqa/validation", "piqa/train"),
            ("winogrande/validation", "winogrande/validation"),
            ("winogrande/validation", "winogrande/train"),
            ("wikitext/test", "wikitext/test"),
            ("c4/validation", "c4/validation"),
        ] {
            copy(&data.join(from), &folder.path().join(to));
        }
        for subject in ["abstract_algebra", "us_foreign_policy", "high_school_statistics"] {
            for split in ["dev", "test"] {
                let path = format!("mmlu/{subject}/{split}");
                copy(&data.join(&path), &folder.path().join(&path));
            }
        }
        Some(folder)
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from.with_extension("jsonl"), to.with_extension("jsonl")).unwrap();
    }

    pub(in crate::eval) fn golden_prompts(folder: &Path, task: &str, shots: usize) -> Prompts {
        let selection = select(&[task.to_owned()], &[]).unwrap();
        prompts(
            &selection.leaves[0],
            None,
            &TaskSource::open(folder).unwrap(),
            &with(shots),
            &Room::new(u64::MAX),
            &Silent,
        )
        .unwrap()
    }

    fn with(shots: usize) -> EvalSettings {
        EvalSettings { few_shot: Some(shots), ..EvalSettings::default() }
    }

    /// Context and continuation of every request.
    fn strings(prompts: &Prompts) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for document in &prompts.documents {
            for request in &document.requests {
                all.push(match request {
                    Request::LogLikelihood { context, continuation } => vec![context.text(), continuation.clone()],
                    Request::LogLikelihoodRolling { text } => vec![text.clone()],
                    Request::GenerateUntil { context, .. } => vec![context.text()],
                });
            }
        }
        all
    }

    #[test]
    fn every_golden_prompt() {
        let Some(folder) = golden_data() else { return };
        let text = fs::read_to_string(format!("{GOLDEN}/requests.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let mut compared = 0;
        for task in golden["tasks"].as_array().unwrap() {
            let (name, shots) = (task["task"].as_str().unwrap(), task["num_fewshot"].as_u64().unwrap() as usize);
            let prompts = golden_prompts(folder.path(), name, shots);
            let expected: Vec<Value> = task["requests"].as_array().unwrap().iter().map(|r| r["args"].clone()).collect();
            assert_eq!(serde_json::json!(strings(&prompts)), Value::Array(expected), "{name} {shots}");
            let targets: Vec<&String> = prompts.documents.iter().map(|document| &document.target).collect();
            let expected = task["targets"].as_array().unwrap().iter();
            let expected: Vec<String> =
                expected.map(|target| target.as_str().map_or_else(|| target.to_string(), str::to_owned)).collect();
            assert_eq!(targets, expected.iter().collect::<Vec<_>>(), "{name}");
            compared += 1;
        }
        assert_eq!(compared, 19);
    }

    #[test]
    fn the_prompts_of_version_0_4_0_are_the_same() {
        let Some(folder) = golden_data() else { return };
        let text = fs::read_to_string(format!("{GOLDEN}/requests_v0.4.0.json")).unwrap();
        let golden: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        for (key, requests) in golden {
            let (name, shots) = key.split_once('/').unwrap();
            let ours = strings(&golden_prompts(folder.path(), name, shots.parse().unwrap()));
            let expected: Vec<Value> =
                requests.as_array().unwrap().iter().map(|r| serde_json::json!([r[2], r[3]])).collect();
            assert_eq!(serde_json::json!(ours), Value::Array(expected), "{key}");
        }
    }

    #[test]
    fn parquet_as_on_the_hub_gives_the_same_documents() {
        let Some(folder) = golden_data() else { return };
        let hub = tempfile::tempdir().unwrap();
        for (from, to, files) in [
            ("mmlu_parquet/abstract_algebra", "abstract_algebra", ["dev", "test"]),
            ("boolq_parquet", "boolq", ["train", "validation"]),
        ] {
            for split in files {
                let name = format!("{split}-00000-of-00001.parquet");
                fs::create_dir_all(hub.path().join(to)).unwrap();
                fs::copy(Path::new(GOLDEN).join("data").join(from).join(&name), hub.path().join(to).join(&name))
                    .unwrap();
            }
        }
        for (task, shots) in [("mmlu_abstract_algebra", 5), ("boolq", 2)] {
            let (lines, parquet) =
                (golden_prompts(folder.path(), task, shots), golden_prompts(hub.path(), task, shots));
            assert_eq!(strings(&lines), strings(&parquet));
            for (line, row) in lines.documents.iter().zip(&parquet.documents) {
                assert_eq!(serde_json::to_string(&line.row).unwrap(), serde_json::to_string(&row.row).unwrap());
            }
        }
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn attempt(files: &[(&str, &str)], task: &str, shots: usize) -> Result<Prompts> {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), files);
        let selection = select(&[task.to_owned()], &[]).unwrap();
        prompts(
            &selection.leaves[0],
            None,
            &TaskSource::open(folder.path()).unwrap(),
            &with(shots),
            &Room::new(u64::MAX),
            &Silent,
        )
    }

    #[test]
    fn hendrycks_files_have_no_header_and_letters() {
        let dev = "q1,a,b,c,d,B\n\"q,2\",a,b,c,d,D\n";
        let files = [("dev/anatomy_dev.csv", dev), ("test/anatomy_test.csv", "\"line 1\nline 2\",1,2,3,4,C\n")];
        let prompts = attempt(&files, "mmlu_anatomy", 1).unwrap();
        let strings = strings(&prompts);
        assert!(
            strings[0][0]
                .starts_with("The following are multiple choice questions (with answers) about anatomy.\n\nq1\nA. a\n")
        );
        assert!(strings[0][0].ends_with("Answer: B\n\nline 1\nline 2\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"));
        let row = serde_json::to_string(&prompts.documents[0].row).unwrap();
        assert_eq!(row, r#"{"question":"line 1\nline 2","subject":"anatomy","choices":["1","2","3","4"],"answer":2}"#);
    }

    #[test]
    fn boolq_in_its_original_layout_has_the_title_apart() {
        let line = r#"{"question": "is it", "title": "T", "answer": true, "passage": "P."}"#;
        let prompts = attempt(&[("dev.jsonl", line)], "boolq", 0).unwrap();
        assert_eq!(strings(&prompts)[0][0], "T -- P.\nQuestion: is it?\nAnswer:");
        let google = r#"{"question": "is it", "answer": true, "passage": "P."}"#;
        let error = attempt(&[("validation.jsonl", google)], "boolq", 0).unwrap_err().to_string();
        assert!(error.contains("validation.jsonl line 1") && error.contains("aps/super_glue"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_the_data_is_named() {
        let good = "q,a,b,c,d,A\n";
        let error = |files: &[(&str, &str)], shots| attempt(files, "mmlu_anatomy", shots).unwrap_err();
        let missing = error(&[("test/virology_test.csv", good)], 0);
        assert!(missing.to_string().contains("subject anatomy"), "{missing}");
        assert_eq!(missing.exit_code(), 2);
        let letter = error(&[("test/anatomy_test.csv", "q,a,b,c,d,A\nq,a,b,c,d,E\n")], 0).to_string();
        assert!(letter.contains("anatomy_test.csv row 2") && letter.contains("\"E\""), "{letter}");
        let columns = error(&[("test/anatomy_test.csv", "q,a,b,c,d,A\nq,a,b,c\n")], 0).to_string();
        assert!(columns.contains("anatomy_test.csv row 2"), "{columns}");
        let few = error(&[("test/anatomy_test.csv", good), ("dev/anatomy_dev.csv", good)], 5);
        assert!(few.to_string().contains("--few-shot 5") && few.to_string().contains("only 1"), "{few}");
        let fields = r#"{"question": "q", "choices": ["a", "b", "c"], "answer": 0}"#;
        let three = error(&[("anatomy/test.jsonl", fields)], 0).to_string();
        assert!(three.contains("test.jsonl line 1") && three.contains("3 entries"), "{three}");
        let empty = error(&[("test/anatomy_test.csv", "")], 0).to_string();
        assert!(empty.contains("no rows"), "{empty}");
        let unlabeled =
            attempt(&[("piqa/validation.jsonl", r#"{"goal":"g","sol1":"a","sol2":"b","label":-1}"#)], "piqa", 0);
        assert!(unlabeled.unwrap_err().to_string().contains("label is -1"));
    }

    #[test]
    fn wikitexts_own_file_is_cut_into_pages() {
        let text = " \n = A = \n \n one \n = = Part = = \n \n = B = \n two \n";
        let prompts = attempt(&[("wikitext/test.txt", text)], "wikitext", 0).unwrap();
        let pages: Vec<&str> =
            prompts.documents.iter().map(|document| document.row["page"].as_str().unwrap()).collect();
        assert_eq!(pages, [" = A = \n \n one \n = = Part = = \n ", " = B = \n two \n"]);
    }
}
