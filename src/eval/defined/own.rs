//! Tasks of lm-evaluation-harness 0.4.13 that prune has as the harness defines them: files of `own/`, made of the
//! harness's (MIT license) by `tests/interop/make_own_tasks.py`.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use super::definition::{Definition, Key};
use super::index::{Named, TaskFiles};
use super::yaml::{Kind, Node, parse};

/// Files by name.
const FILES: &[(&str, &str)] = &[
    ("bbh_cot_fewshot", include_str!("own/bbh_cot_fewshot.yaml")),
    ("bbh_cot_zeroshot", include_str!("own/bbh_cot_zeroshot.yaml")),
    ("bbh_fewshot", include_str!("own/bbh_fewshot.yaml")),
    ("bbh_zeroshot", include_str!("own/bbh_zeroshot.yaml")),
    ("humaneval", include_str!("own/humaneval.yaml")),
    ("mbpp", include_str!("own/mbpp.yaml")),
    ("mmlu_pro", include_str!("own/mmlu_pro.yaml")),
    ("nq_open", include_str!("own/nq_open.yaml")),
    ("triviaqa", include_str!("own/triviaqa.yaml")),
];

/// What the paths of these files begin with, none of which is a file.
const ROOT: &str = "prune's own";

/// Their tasks and groups; `bbh` is another name of `bbh_cot_fewshot`.
pub(in crate::eval) static OWN: LazyLock<TaskFiles> = LazyLock::new(|| {
    let mut all = TaskFiles::default();
    for (name, text) in FILES {
        let file: Arc<Path> = Arc::from(Path::new(ROOT).join(name));
        let Ok(node) = parse(text) else { continue };
        add(&mut all, &Definition { keys: keys(&node, &file), file });
    }
    if let Some(Named::Group(group)) = all.names.get("bbh_cot_fewshot") {
        let mut group = group.clone();
        let name = Node { line: 1, kind: Kind::Scalar("bbh".into()) };
        group.set(Key { name: "group".to_owned(), file: group.file.clone(), line: 1, value: name });
        all.names.insert("bbh".to_owned(), Named::Group(group));
    }
    all
});

/// Whether a definition is one of these.
pub(super) fn is_own(definition: &Definition) -> bool {
    definition.file.starts_with(ROOT)
}

fn keys(node: &Node, file: &Arc<Path>) -> Vec<Key> {
    let key = |entry: &super::yaml::Entry| Key {
        name: entry.key.clone(),
        file: file.clone(),
        line: entry.line,
        value: entry.value.clone(),
    };
    node.entries().unwrap_or_default().iter().map(key).collect()
}

/// Adds a task, or several, which may be a group.
fn add(all: &mut TaskFiles, definition: &Definition) {
    let text = |name: &str| definition.get(name).and_then(|key| key.value.text()).map(str::to_owned);
    if let Some(name) = text("task") {
        all.names.insert(name, Named::Task(definition.clone()));
    }
    let Some(tasks) = definition.get("task").filter(|tasks| tasks.value.list().is_some()) else { return };
    let common = definition.get("common").map(|key| keys(&key.value, &key.file)).unwrap_or_default();
    let mut names = Vec::new();
    for task in tasks.value.list().unwrap_or_default() {
        let mut own = Definition { file: definition.file.clone(), keys: common.clone() };
        keys(task, &definition.file).into_iter().for_each(|key| own.set(key));
        let Some(name) = task.get("task").and_then(Node::text) else { continue };
        names.push(Node { line: task.line, kind: Kind::Scalar(name.into()) });
        all.names.insert(name.to_owned(), Named::Task(own));
    }
    let Some(group) = text("group") else { return };
    let mut whole = definition.clone();
    whole.keys.retain(|key| key.name != "common");
    let members = Node { line: tasks.line, kind: Kind::List(names) };
    whole.set(Key { value: members, ..tasks.clone() });
    all.names.insert(group, Named::Group(whole));
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    #[test]
    fn every_task_of_its_own_is_one() {
        let mut tasks = 0;
        for (name, named) in &OWN.names {
            if let Named::Task(definition) = named {
                let task = read::task(definition, name).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(task.about().name, name);
                assert!(task.about().local.is_empty() && !task.about().dataset.is_empty());
                tasks += 1;
            }
        }
        assert_eq!((tasks, OWN.names.len()), (27 * 4 + 14 + 2 + 9, 27 * 4 + 14 + 2 + 9 + 6));
    }
}
