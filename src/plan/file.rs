//! Plans as text, and plan files read with suspicion.

use std::path::Path;

use serde_json::Value;

use super::Plan;
use crate::files::{self, Bound};
use crate::{Context, Error, Result};

impl Plan {
    /// Reads a plan file, or the plan inside an `analysis.json` (its top-level `plan`), and checks it alone.
    ///
    /// # Errors
    /// A request error naming the file when it is missing, no JSON, holds no plan, or a plan [`Plan::check`] refuses.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |fault: String| Error::request(format!("{}: {fault}", path.display()));
        let mut document: Value = files::asked_json(path, Bound::ANALYSIS)?;
        let plan = match document.as_object_mut() {
            None => return Err(wrong("expected a plan, an object with `for` and `stack`".into())),
            Some(object) => match object.remove("plan") {
                Some(Value::Null) => {
                    return Err(wrong("this analysis marks no plan; say which with --fraction".into()));
                }
                Some(plan) => plan,
                None if object.contains_key("stack") => document,
                None => return Err(wrong("holds no plan: no `stack`, and no `plan` as in analysis.json".into())),
            },
        };
        let mut plan: Self = serde_json::from_value(plan).map_err(|error| wrong(format!("not a plan: {error}")))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        plan.stack
            .iter_mut()
            .flat_map(|place| place.made.values_mut())
            .for_each(|made| made.rename_files(&|file| dir.join(file)));
        plan.check().context(|| path.display())?;
        Ok(plan)
    }

    /// The plan as it stands in a file: indented JSON, a newline at the end.
    ///
    /// # Errors
    /// None in practice; whatever the JSON writer reports.
    pub fn to_json(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).map_err(|error| Error::work(error.to_string()))?;
        text.push('\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::model;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        let plan = Plan::block(model(32), 21, 8).unwrap();
        std::fs::write(&path, plan.to_json().unwrap()).unwrap();
        assert_eq!(Plan::read(&path).unwrap(), plan);
    }

    #[test]
    fn an_analysis_carries_a_plan() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("analysis.json");
        let plan = Plan::block(model(32), 21, 8).unwrap();
        std::fs::write(&path, serde_json::json!({"blocks": [], "plan": plan}).to_string()).unwrap();
        assert_eq!(Plan::read(&path).unwrap(), plan);
    }

    #[test]
    fn bad_files_name_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        let deep = "[".repeat(100_000);
        for (text, word) in [
            ("", "not JSON"),
            (deep.as_str(), "lie too deep in one another"),
            ("[]", "expected a plan"),
            ("{}", "holds no plan"),
            (r#"{"plan": null}"#, "marks no plan"),
            (r#"{"stack": []}"#, "missing field `for`"),
            (r#"{"for": {"id": "a", "fingerprint": "f", "layers": 2}, "stack": [{"merge": [0, 1]}]}"#, "merge"),
            (r#"{"for": {"id": "a", "fingerprint": "f", "layers": 2}, "stack": [{"layer": 2}]}"#, "keeps layer 2"),
            (r#"{"for": {"id": "a", "fingerprint": "f", "layers": 2}, "stack": [{"layer": 0}], "x": 1}"#, "`x`"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Plan::read(&path).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("p.json") && error.to_string().contains(word), "{text}: {error}");
        }
        assert_eq!(Plan::read(&dir.path().join("none.json")).unwrap_err().exit_code(), 2);
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(Plan::read(&path).is_err());
    }

    proptest! {
        #[test]
        fn mutated_plans_do_not_panic(at in 0usize..200, byte in any::<u8>(), layers in 1usize..40, start in 0usize..40) {
            let Ok(plan) = Plan::block(model(layers), start, 1) else { return Ok(()) };
            let mut text = plan.to_json().unwrap().into_bytes();
            let at = at % text.len();
            text[at] = byte;
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &text).unwrap();
            if let Ok(plan) = Plan::read(file.path()) {
                prop_assert!(plan.check().is_ok());
                _ = plan.notations();
                prop_assert!(plan.kept().len() + plan.dropped().len() >= plan.planned_for.layers);
            }
        }
    }
}
