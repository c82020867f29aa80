//! A recipe: the whole job in one TOML file. A section for each command, with its settings; what connects the commands
//! is not written down, it follows.

use std::path::Path;

use toml::{Table, Value};

use super::compute::Compute;
use super::drop::{self, Drop, Wanted};
use super::repairs::Repairs;
use super::sections::{OTHERS, OWN, section};
use super::shipped::{SHIPPED, nearest, shipped};
use crate::checkpoint::Checkpoint;
use crate::commands::analyze::AnalyzeSettings;
use crate::commands::bench::BenchSettings;
use crate::commands::cut::CutSettings;
use crate::eval::settings::EvalSettings;
use crate::heal::HealSettings;
use crate::repair::Repair;
use crate::settings;
use crate::{Context, Error, Result};

/// What a recipe says.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The dense model: directory or hub id.
    pub model: String,
    /// A sentence that stands beside every figure of the report.
    pub caveat: Option<String>,
    /// What to drop.
    pub drop: Drop,
    /// What cuts are repaired by; absent: they are not.
    pub repair: Option<Repairs>,
    /// How layers are scored; absent where no method asks for scores.
    pub analyze: Option<AnalyzeSettings>,
    /// How cuts are written.
    pub cut: CutSettings,
    /// How cuts are healed; absent: not at all.
    pub heal: Option<HealSettings>,
    /// How models are scored.
    pub eval: Option<EvalSettings>,
    /// How speed is measured; absent: not at all.
    pub bench: Option<BenchSettings>,
    /// The recipe with what was set on the command line, TOML.
    pub text: String,
}

impl Recipe {
    /// Reads the recipe at `path`, or the shipped one of that name, sets what `set` says, `heal.steps=10`, and has
    /// every section compute as `compute` says.
    ///
    /// # Errors
    /// Request: no such file, not TOML, a key that is unknown or that `prune run` sets itself; each is named.
    pub fn read(path: &Path, set: &[String], compute: &Compute) -> Result<Self> {
        let place = || path.display().to_string();
        let mut table = match shipped(path) {
            Some(text) => text.parse::<Table>().map_err(|error| Error::request(error.to_string())).context(place)?,
            None if !path.exists() && path.extension().is_none() && path.components().count() == 1 => {
                let meant = nearest(path).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
                return Err(Error::request(format!(
                    "{}: no such file, and no recipe of that name comes with the program (those are {}){meant}",
                    place(),
                    names.join(", ")
                )));
            }
            None => settings::read(path)?,
        };
        drop::check_names(&table).context(place)?;
        drop::rename(&mut table);
        for change in set {
            merge(&mut table, change).context(|| format!("--set {change}"))?;
            drop::rename(&mut table);
        }
        compute.put(&mut table);
        let text = toml::to_string_pretty(&table).map_err(|error| Error::request(error.to_string())).context(place)?;
        settings::beside(path.parent().unwrap_or(Path::new("")), &mut table);
        Self::from_table(&table, text).context(place)
    }

    fn from_table(table: &Table, text: String) -> Result<Self> {
        settings::check_sections(table)?;
        for (section, own) in OWN {
            let keys = table.get(section).and_then(Value::as_table).map(Table::keys);
            if let Some(key) = keys.into_iter().flatten().find(|key| own.contains(&key.as_str())) {
                return Err(Error::request(format!("[{section}] {key}: prune run sets this itself; leave it out")));
            }
        }
        let cut = table.get("cut").and_then(Value::as_table).map(Table::keys);
        if let Some(key) = cut.into_iter().flatten().find(|key| *key == "repair" || Repairs::names(key)) {
            let instead = if key == "repair" { "methods = [\"none\", \"refit\"]" } else { key };
            return Err(Error::request(format!("[cut] {key}: what recipes repair by stands in [repair]: {instead}")));
        }
        // sections that only single commands read
        for (name, check) in OTHERS {
            check(table, name)?;
        }
        let mut recipe = Self {
            model: word(table, "model")?.ok_or_else(|| Error::request("model = \"...\": which model?"))?,
            caveat: word(table, "caveat")?,
            drop: section(table, "drop")?.unwrap_or_default(),
            repair: section(table, "repair")?,
            analyze: section(table, "analyze")?,
            cut: section(table, "cut")?.unwrap_or_default(),
            heal: section(table, "heal")?,
            eval: section(table, "eval")?,
            bench: section(table, "bench")?,
            text,
        };
        recipe.check()?;
        recipe.analyze.iter_mut().for_each(|analyze| analyze.max_loss = recipe.drop.max_loss);
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        let Drop { methods, layers, fractions, targets, max_loss, given, .. } = &self.drop;
        let is_counted = !(layers.is_empty() && fractions.is_empty() && targets.is_empty() && max_loss.is_none());
        if !is_counted && given.is_empty() {
            return Err(Error::request(
                "[drop]: how many layers? give layers, fractions, targets, max_loss or given, such as layers = [4]",
            ));
        }
        if given.is_empty() && methods.is_empty() {
            return Err(Error::request("[drop] methods is empty, expected some such as \"similarity\", \"deepest\""));
        }
        if let Some(method) = methods.iter().find(|method| method.takes_names()) {
            return Err(Error::request(format!(
                "[drop] methods: {} names layers itself: given = [\"21-28\"]",
                method.name
            )));
        }
        methods.iter().try_for_each(|method| method.check_counts()).context(|| "[drop] methods")?;
        let needs_scores = methods.iter().find(|method| method.needs_scores());
        if let Some(method) = needs_scores.filter(|_| is_counted) {
            let Some(analyze) = self.analyze.as_ref().filter(|analyze| !analyze.data.is_empty()) else {
                return Err(Error::request(format!(
                    "[analyze] data: the {} method has to see text; name some",
                    method.name
                )));
            };
            for method in methods {
                if !self.searches_by(method)? {
                    method.check_measured(&analyze.measured()?).context(|| "[drop] methods")?;
                }
            }
        }
        self.drop.check_loss(self.analyze.as_ref())?;
        self.check_alternating().context(|| "[drop] alternating")?;
        self.repair.as_ref().map_or(Ok(()), Repairs::check)?;
        if let Some(heal) = &self.heal {
            heal.check().context(|| "[heal]")?;
            if heal.data.is_empty() {
                return Err(Error::request("[heal] data: which text? name some, or leave [heal] out"));
            }
        }
        match &self.eval {
            Some(eval) if eval.tasks.is_empty() => Err(Error::request("[eval] tasks: which? such as [\"mmlu\"]")),
            Some(eval) => eval.check().context(|| "[eval]"),
            None => Ok(()),
        }
    }
}

impl Recipe {
    /// What each cut is repaired by, in turn: `None` for the plain cut.
    pub(super) fn repairs(&self) -> Vec<Option<&'static Repair>> {
        self.repair.as_ref().map_or_else(|| vec![None], Repairs::each)
    }

    /// The cuts of `model`, which has `layers`, each once, and each once for every repair.
    ///
    /// # Errors
    /// Request: a target that cannot be met, more layers than there are.
    pub fn wanted(&self, model: &Checkpoint, layers: usize) -> Result<Vec<Wanted>> {
        let repairs = self.repairs();
        let cuts = self.drop.settled(model, layers)?.wanted(layers)?;
        Ok(cuts.iter().flat_map(|cut| repairs.iter().map(|repair| cut.repaired(*repair))).collect())
    }

    /// How a cut is written that is repaired so.
    pub(super) fn cut_by(&self, repair: Option<&'static Repair>) -> CutSettings {
        match (&self.repair, repair) {
            (Some(section), Some(repair)) => section.put(repair, &self.cut),
            _ => self.cut.clone(),
        }
    }
}

/// A key above the sections.
fn word(table: &Table, key: &str) -> Result<Option<String>> {
    match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(Error::request(format!("{key}: {other}: expected a string"))),
    }
}

/// Puts `section.key=value` in its place; `fraction`, `layers` and `data` have theirs. A value that is not TOML is a
/// string.
fn merge(table: &mut Table, change: &str) -> Result<()> {
    let (path, value) =
        change.split_once('=').ok_or_else(|| Error::request("expected section.key=value, such as heal.steps=100"))?;
    let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    let value = match (path.trim(), value) {
        // what every recipe has, by a short name
        ("fraction" | "layers", value) => {
            let (own, other) = if path.trim() == "layers" { ("layers", "fractions") } else { ("fractions", "layers") };
            let drop = table.entry("drop").or_insert_with(|| Value::Table(Table::new())).as_table_mut();
            let drop = drop.ok_or_else(|| Error::request("drop is no section"))?;
            drop.remove(other);
            drop.insert(own.to_owned(), if value.is_array() { value } else { Value::Array(vec![value]) });
            return Ok(());
        }
        ("data", value) => {
            let sections = ["analyze", "repair", "heal"].into_iter().filter(|name| table.contains_key(*name));
            for name in sections.collect::<Vec<_>>() {
                if let Some(section) = table.get_mut(name).and_then(Value::as_table_mut) {
                    section.insert("data".to_owned(), value.clone());
                }
            }
            return Ok(());
        }
        (_, value) => value,
    };
    let mut place = table;
    let mut keys = path.split('.').map(str::trim).peekable();
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            place.insert(key.to_owned(), value);
            return Ok(());
        }
        let section = place.entry(key).or_insert_with(|| Value::Table(Table::new()));
        place = section.as_table_mut().ok_or_else(|| Error::request(format!("{key} is no section")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, set: &[&str]) -> Result<Recipe> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("recipe.toml"), text).unwrap();
        std::fs::write(dir.path().join("text.jsonl"), "{}").unwrap();
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        Recipe::read(&dir.path().join("recipe.toml"), &set, &Compute::default())
    }

    const GOOD: &str = "model = \"org/name\"\n[drop]\nlayers = [4, 2]\nmethods = [\"similarity\", \"deepest\"]\n\
                        given = [\"1, 3-5\"]\n[analyze]\ndata = \"text.jsonl\"\n[eval]\ntasks = [\"boolq\"]\n";

    #[test]
    fn paths_are_looked_for_beside_the_recipe() {
        let recipe = read(GOOD, &["eval.limit=3", "drop.fractions=[0.5]", "heal.data=c4"]).unwrap();
        assert_eq!(recipe.model, "org/name");
        let data = recipe.analyze.as_ref().unwrap().data[0].clone();
        assert!(Path::new(&data).is_absolute() && data.ends_with("text.jsonl"), "{data}");
        assert_eq!(recipe.eval.as_ref().unwrap().limit, Some(3.0));
        assert_eq!(recipe.heal.as_ref().unwrap().data, ["c4"]);
        assert!(recipe.text.contains("limit = 3"));
        let names: Vec<String> = recipe.drop.wanted(16).unwrap().into_iter().map(|wanted| wanted.name).collect();
        let expected = "similarity-2 similarity-4 similarity-8 deepest-2 deepest-4 deepest-8 given-1+3-5";
        assert_eq!(names.join(" "), expected);
        assert!(recipe.drop.wanted(4).unwrap_err().to_string().contains("4 of 4"));
    }

    #[test]
    fn targets_become_numbers_of_layers() {
        let dir = tempfile::tempdir().unwrap();
        crate::pico::write(dir.path()).unwrap();
        let model = crate::checkpoint::Checkpoint::open_dir(dir.path()).unwrap();
        let numbers = model.index.tensors.values().map(|entry| entry.shape.iter().product::<usize>()).sum::<usize>();
        let only = |target: &str| {
            let set = [format!("drop.targets=[{target:?}]"), "drop.layers=[]".to_owned(), "drop.given=[]".to_owned()];
            read(GOOD, &set.each_ref().map(String::as_str)).unwrap().drop
        };
        let drop = only(&format!("params={}", numbers - 1));
        let names: Vec<String> =
            drop.settled(&model, 4).unwrap().wanted(4).unwrap().into_iter().map(|wanted| wanted.name).collect();
        assert_eq!(names, ["similarity-1", "deepest-1"]);
        let error = only("params=1").settled(&model, 4).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("[drop] targets"), "{error}");
        let error = read(GOOD, &["drop.targets=[\"5B\"]"]).unwrap_err().to_string();
        assert!(error.contains("params=5B"), "{error}");
        assert!(read(GOOD, &["analyze.target=\"params=5B\""]).unwrap_err().to_string().contains("sets this itself"));
    }

    #[test]
    fn every_cut_comes_once_a_repair() {
        let dir = tempfile::tempdir().unwrap();
        crate::pico::write(dir.path()).unwrap();
        let model = Checkpoint::open_dir(dir.path()).unwrap();
        let repair = ["drop.given=[]", "drop.layers=[1]", "repair.methods=[\"none\",\"refit\",\"none\"]"];
        let error = read(GOOD, &repair).unwrap_err();
        assert!(error.to_string().contains("[repair] data: which text is refit fitted on?"), "{error}");
        let recipe = read(GOOD, &[&repair[..], &["repair.data=text.jsonl", "repair.samples=8"]].concat()).unwrap();
        let names: Vec<String> = recipe.wanted(&model, 4).unwrap().into_iter().map(|wanted| wanted.name).collect();
        assert_eq!(names, ["similarity-1", "similarity-1-refit", "deepest-1", "deepest-1-refit"]);
        let [none, refit] = recipe.repairs()[..] else { panic!() };
        assert_eq!((recipe.cut_by(none).data, recipe.cut_by(refit).samples), (None, Some(8)));
        // a text that nothing is fitted on is no fault
        read(GOOD, &["repair.methods=[\"none\"]"]).unwrap();
    }

    #[test]
    fn methods_have_an_old_name() {
        let old = GOOD.replace("methods", "strategies");
        assert_eq!(read(&old, &[]).unwrap().drop, read(GOOD, &[]).unwrap().drop);
        for text in [GOOD, &old] {
            let set = read(text, &["drop.strategies=[\"tail\"]"]).unwrap();
            assert_eq!(set.drop.methods, [crate::methods::method("tail").unwrap()]);
        }
        let both = GOOD.replace("methods", "strategies = []\nmethods");
        assert!(read(&both, &[]).unwrap_err().to_string().contains("old name of methods"));
        assert!(read(GOOD, &["drop.methods=[\"given\"]"]).unwrap_err().to_string().contains("given = ["));
        let dear = read(GOOD, &["drop.methods=[\"shortened-llama\"]"]).unwrap_err().to_string();
        assert!(dear.contains("needs scores of layer-loss"), "{dear}");
        read(GOOD, &["drop.methods=[\"shortened-llama\"]", "analyze.metrics=[\"layer-loss\"]"]).unwrap();
    }

    #[test]
    fn the_recipes_that_come_along() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let configs = std::fs::read_dir(own.join("configs")).unwrap().map(|entry| entry.unwrap().path());
        let recipes = configs.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
        let all: Vec<_> = recipes.chain([own.join("src/demo/files/recipe.toml")]).collect();
        assert!(all.len() > 4);
        for path in all {
            let recipe = Recipe::read(&path, &[], &Compute::default()).unwrap();
            assert!(recipe.heal.is_some() && recipe.eval.is_some());
            assert!(!recipe.drop.wanted(32).unwrap().is_empty());
            // each command reads its own section of the same file
            let heal: HealSettings = settings::resolve("heal", Some(&path), Table::new()).unwrap();
            assert_eq!(heal.steps, recipe.heal.unwrap().steps);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, set, fault) in [
            ("model = 1", "", "model"),
            ("model = \"m\"", "", "[drop]"),
            ("[drop]\nlayers = [1]", "", "which model"),
            (GOOD, "heal.model=x", "[heal] model: prune run sets"),
            (GOOD, "cut.plan=x", "[cut] plan"),
            (GOOD, "cut.repair=refit", "[cut] repair: what recipes repair by stands in [repair]: methods"),
            (GOOD, "cut.samples=3", "[repair]: samples"),
            (
                GOOD,
                "repair.methods=[\"refitt\"]",
                "[repair] methods: no repair is called \"refitt\", did you mean refit?",
            ),
            (GOOD, "repair.methods=[\"refitt\"]", "or none, the plain cut"),
            (GOOD, "repair.samples=3", "[repair] methods: which?"),
            (GOOD, "repair.sample=3", "did you mean samples?"),
            (GOOD, "eval.task=x", "[eval] task: unknown, did you mean tasks?"),
            (GOOD, "evaluate.tasks=x", "[evaluate]: unknown, did you mean eval?"),
            (GOOD, "heal.steps=0", "[heal]: steps is 0"),
            (GOOD, "heal.steps=5", "[heal] data"),
            (GOOD, "drop.strategies=[\"finest\"]", "finest"),
            (GOOD, "eval.tasks=[]", "[eval] tasks"),
            (GOOD, "model.x=1", "no section"),
            (GOOD, "heal", "section.key=value"),
        ] {
            let set: Vec<&str> = Some(set).filter(|set| !set.is_empty()).into_iter().collect();
            let error = read(text, &set).unwrap_err();
            assert!(error.to_string().contains(fault) && error.exit_code() == 2, "{error} / {fault}");
        }
    }
}
