//! Task files that are wrong: one clear line each, before the model is opened where that can be known.

use std::fs;

use prune::commands::eval::eval;
use prune::eval::settings::EvalSettings;
use prune::progress::Silent;
use serde_json::{Value, json};

use crate::eval::shared::{Small, message, read};

/// A task that is well.
const SOUND: &str = "\
task: t
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: \"{{q}}\"
doc_to_choice: choices
doc_to_target: answer
";
const ROWS: &str = "{\"q\": \"w1 w2\", \"choices\": [\"w3\", \"w4\"], \"answer\": 0}\n\
                    {\"q\": \"w5\", \"choices\": [\"w6\", \"w7\"], \"answer\": 1}\n";

/// A folder with task files, and a small model.
struct Folder {
    small: Small,
}

impl Folder {
    fn new() -> Self {
        let folder = Self { small: Small::new() };
        folder.write("rows.jsonl", ROWS);
        folder.write("t.yaml", SOUND);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.small.path("tasks").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Without a model, so that what is refused was refused before one was looked for.
    fn settings(&self, tasks: &[&str]) -> EvalSettings {
        EvalSettings {
            include_path: Some(self.small.path("tasks")),
            tasks: tasks.iter().map(|name| (*name).to_owned()).collect(),
            data_dir: Some(self.small.path("tasks")),
            ..EvalSettings::default()
        }
    }

    fn with_model(&self, tasks: &[&str]) -> EvalSettings {
        EvalSettings { model: Some(self.small.path("model").display().to_string()), ..self.settings(tasks) }
    }
}

#[test]
fn a_definition_that_is_wrong_is_refused_with_file_line_and_key() {
    let folder = Folder::new();
    let long = format!("task: t\ndescription: \"{}\"\n", "x".repeat(5 << 20));
    for (text, parts) in [
        ("task: [t\n", &["t.yaml line ", "is no YAML"][..]),
        ("- task: t\n", &["t.yaml line 1: expected keys"]),
        ("", &["t.yaml line 1: is empty"]),
        (&long, &["t.yaml", "MiB"]),
        ("task: t\nnum_fewshot: .nan\n", &["line 2", ".nan is no finite number"]),
        ("task: t\ninclude: t.yaml\n", &["line 2: include", "in turn"]),
        ("task: t\ninclude: nothing.yaml\n", &["line 2: include: there is no", "nothing.yaml"]),
        ("SOUND\ndoc_to_txt: q\n", &["line 10: doc_to_txt: is no key of a task; did you mean doc_to_text?"]),
        ("SOUND\nprocess_docs: !function utils.f\n", &["line 10: process_docs: is Python"]),
        ("SOUND\ndescription: !function utils.f\n", &["line 10: description: !function utils.f is Python"]),
        ("SOUND\ndescription: \"{% for %}\"\n", &["line 10: description: no template"]),
        ("SOUND\noutput_type: generate\n", &["line 10: output_type: there is no type generate", "generate_until"]),
        ("SOUND\nmetric_list: []\n", &["line 10: metric_list: expected a list of metrics"]),
        ("SOUND\nmetric_list:\n  - metric: acc_nrm\n", &["line 11: metric_list", "did you mean acc_norm?"]),
        ("SOUND\nmetric_list:\n  - metric: bleu\n", &["line 11", "bleu is not computed here"]),
        ("SOUND\nmetric_list:\n  - metric: word_perplexity\n", &["is no metric of multiple_choice tasks"]),
        ("SOUND\nmetric_list:\n  - metric: acc\n    aggregation: median\n", &["line 12", "expected mean"]),
        ("SOUND\ndoc_to_choice: [yes, no]\n", &["line 10: doc_to_choice: the choice true is no text", "in quotes"]),
        ("SOUND\nfewshot_config: {sampler: balanced}\n", &["line 10: fewshot_config: sampler", "default or first_n"]),
        ("SOUND\nfewshot_config: {split: test, n: 2}\n", &["fewshot_config: n: is no key of it"]),
        ("SOUND\ndataset_kwargs: {data_files: {train: rows.jsonl}}\n", &["line 10", "no split test, which is scored"]),
        ("SOUND\ndataset_kwargs: {data_files: {test: \"https://x/y.json\"}}\n", &["name its copy"]),
        (
            "SOUND\noutput_type: generate_until\ngeneration_kwargs: {do_sample: true}\n",
            &["line 11", "temperature is 0"],
        ),
        ("SOUND\noutput_type: generate_until\ngeneration_kwargs: {stop: x}\n", &["line 11", "stop is not known here"]),
        ("task: t\ntest_split: test\n", &["t.yaml: dataset_path is missing"]),
        ("task: t\ndataset_path: json\n", &["neither test_split nor validation_split"]),
    ] {
        folder.write("t.yaml", &text.replace("SOUND\n", &format!("{SOUND}\n")));
        let (said, code) = message(eval(&folder.settings(&["t"]), &Silent));
        assert!(parts.iter().all(|part| said.contains(part)) && code == 2, "{text:.300}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn names_that_nobody_defines() {
    let folder = Folder::new();
    let (said, code) = message(eval(&folder.settings(&["tt"]), &Silent));
    assert!(said.contains("did you mean t?") && code == 2, "{said}");
    let (said, _) = message(eval(&folder.settings(&["something"]), &Silent));
    assert!(said.contains("--include-path has t"), "{said}");
    folder.write("broken.yaml", "task: [\n");
    let (said, _) = message(eval(&folder.settings(&["something"]), &Silent));
    assert!(said.contains("could not be read") && said.contains("broken.yaml"), "{said}");
    folder.write("again.yaml", SOUND);
    let (said, code) = message(eval(&folder.settings(&["t"]), &Silent));
    assert!(said.contains("t is defined twice") && said.contains("again.yaml") && code == 2, "{said}");
    let (said, code) = message(eval(&folder.settings(&["no/such.yaml"]), &Silent));
    assert!(said.contains("no/such.yaml: no such file") && code == 2, "{said}");
    let missing = EvalSettings { include_path: Some("nowhere".into()), ..folder.settings(&["t"]) };
    let (said, code) = message(eval(&missing, &Silent));
    assert!(said.contains("--include-path: nowhere") && code == 2, "{said}");
}

#[test]
fn groups_that_are_wrong() {
    let folder = Folder::new();
    for (text, part) in [
        ("group: g\ntask: [g]\n", "the group g contains itself"),
        ("group: g\ntask: [t, u]\n", "line 2: task: there is no task u"),
        ("group: g\ntask: t\n", "expected a list of tasks"),
        ("group: g\n", "task is missing"),
        ("group: g\ntask: [{name: t}]\n", "a member has `task: NAME`"),
        ("group: g\ntask: [boolq]\nnum_fewshot: 2\n", "boolq is a task of prune's own"),
        ("group: g\ntask: [t]\naggregate_metric_list: [{metric: acc, aggregation: max}]\n", "expected mean"),
        ("group: g\ntask: [t]\naggregate_metric_list: [{metrics: acc}]\n", "an entry without `metric`"),
        ("group: g\ntask: [t, {task: t, num_fewshot: 1}]\n", "in two forms"),
    ] {
        folder.write("g.yaml", text);
        let (said, code) = message(eval(&folder.settings(&["g"]), &Silent));
        assert!(
            said.contains(part) && said.contains("g.yaml") | said.contains("t.yaml") && code == 2,
            "{text}: {said}"
        );
    }
    folder.write("g.yaml", "group: g\ntask: [h]\n");
    folder.write("h.yaml", "group: h\ntask: [g]\n");
    let (said, _) = message(eval(&folder.settings(&["g"]), &Silent));
    assert!(said.contains("contains itself"), "{said}");
}

#[test]
fn documents_that_do_not_fit_are_told_with_their_place() {
    let folder = Folder::new();
    for (key, parts) in [
        (
            "doc_to_text: \"{{question}}\"",
            &["doc_to_text", "field question is missing; there are q, choices, answer"][..],
        ),
        ("doc_to_text: question", &["there is no field question"]),
        ("doc_to_choice: options", &["there is no field options"]),
        ("doc_to_choice: \"{{q}}\"", &["expected a list of texts"]),
        ("doc_to_target: \"{{7}}\"", &["number 7 of 2 choices"]),
        ("doc_to_target: \"w8\"", &["the right answer is \"w8\""]),
        ("doc_to_text: \"{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}\"", &["fuel"]),
    ] {
        let name = key.split(':').next().unwrap();
        let own: String =
            SOUND.lines().filter(|line| !line.starts_with(name)).map(|line| format!("{line}\n")).collect();
        folder.write("t.yaml", &format!("{own}{key}\n"));
        let (said, code) = message(eval(&folder.with_model(&["t"]), &Silent));
        assert!(parts.iter().all(|part| said.contains(part)) && code == 1, "{key}: {said}");
        assert!(said.contains("rows.jsonl line 1"), "{key}: {said}");
    }
    folder.write("t.yaml", &SOUND.replace("rows.jsonl", "gone.jsonl"));
    let (said, code) = message(eval(&folder.with_model(&["t"]), &Silent));
    assert!(said.contains("there is no gone.jsonl") && code == 2, "{said}");
}

#[test]
fn a_file_by_its_path_a_tag_a_group_and_a_name_of_the_table() {
    let folder = Folder::new();
    folder.write("t.yaml", &format!("{SOUND}tag: [some, more]\n"));
    folder.write("u.yml", &format!("{SOUND}task_alias: Second\n"));
    folder.write("g.yaml", "group: g\ntask: [some]\n");
    let figures = |settings: &EvalSettings| -> Vec<(String, String)> {
        let report = eval(settings, &Silent).unwrap();
        report.figures.iter().map(|figure| (figure.alias.clone(), figure.metric.clone())).collect()
    };
    let pair = |alias: &str| [(alias.to_owned(), "acc".to_owned()), (alias.to_owned(), "acc_norm".to_owned())];
    assert_eq!(figures(&folder.with_model(&["some"])), pair("t"));
    let path = folder.small.path("tasks").join("t.yaml").display().to_string();
    let alone = EvalSettings { include_path: None, ..folder.with_model(&[&path]) };
    assert_eq!(figures(&alone), pair("t"));
    folder.write("boolq.yaml", &SOUND.replace("task: t", "task: boolq"));
    assert_eq!(figures(&folder.with_model(&["boolq"])), pair("boolq"));

    // the definition stands in the results, and the same run is found again
    let settings = EvalSettings { out: Some(folder.small.path("out")), ..folder.with_model(&["t"]) };
    eval(&settings, &Silent).unwrap();
    let (results, samples) = read(&folder.small.path("out"));
    let config: &Value = &results["configs"]["t"];
    assert_eq!((&config["doc_to_choice"], &config["output_type"]), (&json!("choices"), &json!("multiple_choice")));
    assert_eq!(samples["t"].len(), 2);
    assert!(eval(&settings, &Silent).unwrap().found);
    folder.write("t.yaml", &format!("{SOUND}description: w9\n"));
    let (said, code) = message(eval(&settings, &Silent));
    assert!(said.contains("--force") && code == 2, "{said}");
}
