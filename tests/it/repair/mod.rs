//! Repairs: against independent code on the demo's model, and as `prune cut` and
//! recipes do them.

mod cuts;
mod goldens;
mod merges;
mod recipes;
mod refused;
mod rounds;
mod thresholds;
mod trained;
mod training_killed;
mod whole;

use std::path::Path;
use std::sync::Arc;

use prune::checkpoint::{ByteSize, Checkpoint};
use prune::model::{Model, ModelOptions, Residency};
use prune::plan::{Plan, PlannedFor, parse_drop};
use prune::progress::Silent;
use prune::surgery::{Cut, CutOptions, format};

/// The checkpoint in `dir`, and what is left of it without `drop`.
fn cut_of(dir: &Path, drop: &str, how: Option<&str>) -> (Arc<Checkpoint>, Cut) {
    let source = Arc::new(Checkpoint::open_dir(dir).unwrap());
    let layers = source.config["num_hidden_layers"].as_u64().unwrap() as usize;
    let identity = PlannedFor { id: "model".into(), revision: None, fingerprint: source.fingerprint(), layers };
    let plan = Plan::drop_named(identity.clone(), &parse_drop(drop, layers).unwrap()).unwrap();
    let format = how.map(|name| format(name).unwrap());
    let options = CutOptions { max_shard_size: ByteSize(1 << 40), allow_unsliced: &[], format };
    let cut = Cut::new(&source, &identity, plan, &options).unwrap();
    (source, cut)
}

fn model(checkpoint: Arc<Checkpoint>, residency: Residency) -> Model {
    let options = ModelOptions { residency: Some(residency), ..ModelOptions::default() };
    Model::open(checkpoint, &options, &Silent).unwrap()
}
