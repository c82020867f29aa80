//! From names that files define to the tasks that are run and the groups they are averaged in
//! (lm-evaluation-harness 0.4.13, `tasks/_factory.py`).

use serde_json::Value;

use super::OWN;
use super::definition::{Definition, Key};
use super::index::{Named, TaskFiles};
use super::read::{self, name_of, nearest};
use super::yaml::{Kind, Node};
use crate::eval::select::{Aggregate, Leaf, Selection};
use crate::{Error, Result};

/// Groups in each other.
const DEEPEST: usize = 16;

/// Keys of a group; all others are its tasks' keys.
const KEYS: [&str; 6] = ["group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"];

/// Adds what `name` stands for to a selection.
pub(in crate::eval) struct Adder<'a> {
    pub(in crate::eval) files: &'a TaskFiles,
    pub(in crate::eval) selection: &'a mut Selection,
    /// Adds a name that no file defines.
    pub(in crate::eval) other: &'a dyn Fn(&mut Selection, &str) -> Result<()>,
}

/// Names and leaves of what was added.
type Added = (Vec<String>, Vec<usize>);

impl Adder<'_> {
    /// Whether a file defines `name`.
    pub(in crate::eval) fn knows(&self, name: &str) -> bool {
        self.files.names.contains_key(name)
    }

    /// Adds it.
    ///
    /// # Errors
    /// Request: a broken definition, groups that contain each other, a name that two files have.
    pub(in crate::eval) fn add(&mut self, name: &str) -> Result<()> {
        self.named(name, &[], &mut Vec::new()).map(drop)
    }

    fn named(&mut self, name: &str, over: &[Key], above: &mut Vec<String>) -> Result<Added> {
        if let Some(second) = self.files.twice.get(name) {
            let first = match self.files.names.get(name) {
                Some(Named::Task(it) | Named::Group(it)) => it.file.display().to_string(),
                _ => String::new(),
            };
            return Err(Error::request(format!("{name} is defined twice, in {first} and in {}", second.display())));
        }
        match self.files.names.get(name).cloned() {
            Some(Named::Task(definition)) => {
                let own = definition.get("task").map(name_of).transpose()?.unwrap_or_else(|| name.to_owned());
                self.task(definition, own, over)
            }
            Some(Named::Group(definition)) => {
                let own = definition.get("group").map(name_of).transpose()?.unwrap_or_else(|| name.to_owned());
                self.group(&definition, own, over, above)
            }
            Some(Named::Tag(tasks)) => {
                let mut all = Added::default();
                for task in &tasks {
                    let (names, leaves) = self.named(task, over, above)?;
                    all.0.extend(names);
                    all.1.extend(leaves);
                }
                Ok(all)
            }
            None => self.built_in(name, over),
        }
    }

    /// A task or group of the table.
    fn built_in(&mut self, name: &str, over: &[Key]) -> Result<Added> {
        if let Some(key) = over.first() {
            return Err(key.fault(format!("{name} is a task of prune's own, which takes no other settings")));
        }
        (self.other)(self.selection, name)?;
        let group = self.selection.groups.iter().find(|group| group.name == name);
        let leaves = match group {
            Some(group) => group.leaves.clone(),
            None => self.selection.leaves.iter().position(|leaf| leaf.name == name).into_iter().collect(),
        };
        Ok((vec![name.to_owned()], leaves))
    }

    fn task(&mut self, mut definition: Definition, name: String, over: &[Key]) -> Result<Added> {
        over.iter().filter(|key| key.name != "task").for_each(|key| definition.set(key.clone()));
        let task = read::task(&definition, &name)?;
        let leaf = Leaf { name: name.clone(), task, subject: None, file: None };
        if let Some(known) = self.selection.leaves.iter().find(|known| known.name == name)
            && !std::ptr::addr_eq(known.task, task)
        {
            return Err(definition.fault(format!("{name} is asked for in two forms; give one another name")));
        }
        let place = self.selection.leaf(leaf);
        Ok((vec![name], vec![place]))
    }

    fn group(&mut self, definition: &Definition, name: String, over: &[Key], above: &mut Vec<String>) -> Result<Added> {
        if above.contains(&name) || above.len() > DEEPEST {
            return Err(definition.fault(format!("the group {name} contains itself, by {}", above.join(", "))));
        }
        above.push(name.clone());
        let task = definition.get("task").ok_or_else(|| definition.fault("task is missing: the group's tasks"))?;
        let members = task.value.list().filter(|members| !members.is_empty());
        let members = members.ok_or_else(|| task.fault("expected a list of tasks (a task's groups are its `tag`)"))?;
        let mut own: Vec<Key> =
            definition.keys.iter().filter(|key| !KEYS.contains(&key.name.as_str())).cloned().collect();
        own.extend(over.iter().cloned());
        let (mut children, mut leaves) = (Vec::new(), Vec::new());
        for member in members {
            let (names, places) = self.member(task, member, &name, &own, above)?;
            children.extend(names.into_iter().filter(|name| !children.contains(name)).collect::<Vec<_>>());
            leaves.extend(places.into_iter().filter(|place| !leaves.contains(place)).collect::<Vec<_>>());
        }
        above.pop();
        let alias = definition.get("group_alias").map(name_of).transpose()?.unwrap_or_else(|| name.clone());
        let version = definition.get("metadata").and_then(|key| key.value.get("version")).map(Node::json);
        let version = match version {
            None => "N/A".to_owned(),
            Some(Value::String(text)) => text,
            Some(other) => super::form::python_text(&other),
        };
        let aggregates = definition.get("aggregate_metric_list").map_or(Ok(Vec::new()), aggregates)?;
        self.selection.group(crate::eval::select::Group {
            name: name.clone(),
            alias,
            children,
            leaves: leaves.clone(),
            aggregates,
            version,
        });
        Ok((vec![name], leaves))
    }

    /// A name, or a name with keys of its own, or a group within the group.
    fn member(
        &mut self,
        key: &Key,
        member: &Node,
        group: &str,
        over: &[Key],
        above: &mut Vec<String>,
    ) -> Result<Added> {
        if let Some(name) = member.text() {
            return self.known(key, member, name, over, above);
        }
        let entries = member.entries().ok_or_else(|| key.fault_at(member.line, "expected the name of a task"))?;
        let own = entries.iter().map(|entry| Key {
            name: entry.key.clone(),
            file: key.file.clone(),
            line: entry.line,
            value: entry.value.clone(),
        });
        let own: Vec<Key> = own.collect();
        let name = |key: &str| member.get(key).and_then(Node::text);
        let over: Vec<Key> = over.iter().cloned().chain(own.clone()).collect();
        if let Some(name) = name("group") {
            if self.knows(name) {
                let over: Vec<Key> = over.into_iter().filter(|key| !KEYS.contains(&key.name.as_str())).collect();
                return self.named(name, &over, above);
            }
            let definition = Definition { file: key.file.clone(), keys: own };
            return self.group(&definition, format!("{group}::{name}"), &[], above);
        }
        let name =
            name("task").ok_or_else(|| key.fault_at(member.line, "a member has `task: NAME` or `group: NAME`"))?;
        if self.knows(name) || OWN.names().any(|known| known == name) || crate::eval::tasks::named(name).is_some() {
            let over: Vec<Key> = over.into_iter().filter(|key| key.name != "task").collect();
            return self.named(name, &over, above);
        }
        let definition = Definition { file: key.file.clone(), keys: over };
        self.task(definition, format!("{group}::{name}"), &[])
    }

    fn known(&mut self, key: &Key, member: &Node, name: &str, over: &[Key], above: &mut Vec<String>) -> Result<Added> {
        self.named(name, over, above).map_err(|error| match error {
            Error::Request(fault) if fault.starts_with("--tasks: there is no task") => {
                let near = nearest(name, self.files.names());
                key.fault_at(member.line, format!("there is no task {name}; {near}"))
            }
            other => other,
        })
    }
}

/// What a group says of all its tasks.
fn aggregates(key: &Key) -> Result<Vec<Aggregate>> {
    let nodes = key.value.list().unwrap_or(std::slice::from_ref(&key.value));
    let one = |node: &Node| {
        let fault = |what: String| key.fault_at(node.line, what);
        let metric =
            node.get("metric").and_then(Node::text).ok_or_else(|| fault("an entry without `metric`".into()))?;
        let mut aggregate = Aggregate { metric: metric.to_owned(), filters: None, weight_by_size: true };
        for entry in node.entries().into_iter().flatten() {
            let value = &entry.value;
            match (entry.key.as_str(), &value.kind) {
                ("metric", _) | (_, Kind::Scalar(Value::Null)) => {}
                ("aggregation", _) if value.text() == Some("mean") => {}
                ("weight_by_size", Kind::Scalar(Value::Bool(flag))) => aggregate.weight_by_size = *flag,
                ("filter_list", _) => {
                    let names = value.list().unwrap_or(std::slice::from_ref(value)).iter().map(Node::text);
                    let names: Option<Vec<String>> = names.map(|name| name.map(str::to_owned)).collect();
                    aggregate.filters = Some(names.ok_or_else(|| fault("filter_list: expected names".to_owned()))?);
                }
                ("aggregation" | "weight_by_size", _) => {
                    let expected = if entry.key == "aggregation" { "mean" } else { "true or false" };
                    let found = value.function().map_or_else(|| value.json().to_string(), |it| it.1.to_owned());
                    let what = format!("{} is {found}, expected {expected}", entry.key);
                    return Err(key.fault_at(entry.line, what));
                }
                (other, _) => {
                    let known = ["metric", "aggregation", "weight_by_size", "filter_list"];
                    let near = nearest(other, known.into_iter());
                    return Err(key.fault_at(entry.line, format!("{other} is not known here; {near}")));
                }
            }
        }
        Ok(aggregate)
    };
    nodes.iter().map(one).collect()
}
