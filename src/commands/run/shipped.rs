//! Recipes that come with the program, by name: `prune run best`.

use std::path::Path;

/// Every shipped recipe: its name, and its text.
pub(super) const SHIPPED: &[(&str, &str)] = &[
    ("best", include_str!("../../../configs/best.toml")),
    ("llama-2-7b", include_str!("../../../configs/llama-2-7b.toml")),
    ("llama-2-13b", include_str!("../../../configs/llama-2-13b.toml")),
    ("llama-2-70b", include_str!("../../../configs/llama-2-70b.toml")),
    ("llama-3-8b", include_str!("../../../configs/llama-3-8b.toml")),
    ("llama-3-8b-repaired", include_str!("../../../configs/llama-3-8b-repaired.toml")),
    ("mistral-7b", include_str!("../../../configs/mistral-7b.toml")),
    ("smollm2-135m", include_str!("../../../configs/smollm2-135m.toml")),
];

/// The text of the shipped recipe that `path` names; `None` where there is none, or a file of that name.
pub(super) fn shipped(path: &Path) -> Option<&'static str> {
    let name = path.to_str()?;
    let (_, text) = SHIPPED.iter().find(|(own, _)| *own == name)?;
    (!path.exists()).then_some(text)
}

/// The shipped recipe whose name is most like `path`, for a message.
pub(super) fn nearest(path: &Path) -> Option<&'static str> {
    let name = path.to_str()?;
    let likeness = |own: &str| strsim::jaro_winkler(name, own);
    let names = SHIPPED.iter().map(|(own, _)| *own);
    names.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|own| likeness(own) > 0.85)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::run::compute::Compute;
    use crate::commands::run::recipe::Recipe;

    #[test]
    fn every_shipped_recipe_reads_by_name() {
        for (name, _) in SHIPPED {
            let recipe = Recipe::read(Path::new(name), &[], &Compute::default()).unwrap();
            assert!(!recipe.model.is_empty(), "{name}");
        }
        let set = ["model=./mine", "fraction=0.5", "data=mine.jsonl"].map(str::to_owned);
        let best = Recipe::read(Path::new("best"), &set, &Compute::default()).unwrap();
        assert_eq!((best.model.as_str(), &best.drop.fractions[..]), ("./mine", &[0.5][..]));
        assert_eq!(best.heal.unwrap().data, ["mine.jsonl"]);
        assert_eq!(best.repair.unwrap().data.as_deref(), Some("mine.jsonl"));
        assert_eq!(best.analyze.unwrap().data, ["mine.jsonl"]);
        let layers = ["layers=3".to_owned()];
        let best = Recipe::read(Path::new("best"), &layers, &Compute::default()).unwrap();
        assert_eq!((&best.drop.layers[..], best.drop.fractions.len()), (&[3][..], 0));
        let error = Recipe::read(Path::new("bets"), &[], &Compute::default()).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("did you mean best?"), "{error}");
    }
}
