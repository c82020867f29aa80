//! One process and many: the same steps give the same bytes.

use std::sync::{Barrier, Mutex};

use candle_core::Device;
use prune::heal::collective::{Collective, Sums};
use prune::heal::{HealSettings, StepReport, Trainer, parameters};
use prune::model::{CheckpointingPolicy, Lessons};
use prune::ops::TopTokens;

use crate::fixture::Llama;
use crate::heal::model::open;

/// Threads that stand for processes; each has a model of its own.
struct Threads<'a> {
    rank: usize,
    met: &'a Met,
}

struct Met {
    size: usize,
    parts: Mutex<Vec<Vec<Sums>>>,
    arrived: Barrier,
}

impl Collective for Threads<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.met.size
    }

    fn sum(&self, own: Vec<Sums>) -> prune::Result<Sums> {
        self.met.parts.lock().unwrap()[self.rank] = own;
        self.met.arrived.wait();
        let mut sums = Sums::default();
        for part in self.met.parts.lock().unwrap().iter().flatten() {
            let copy = Sums { loss: part.loss, gradients: part.gradients.clone() };
            sums.add(copy)?;
        }
        self.met.arrived.wait();
        Ok(sums)
    }
}

fn rows(step: u32) -> Vec<Vec<u32>> {
    (0..7).map(|s| (0..5 + 3 * s).map(|i| (i * 7 + s * 3 + step) % 64).collect()).collect()
}

/// A teacher that finds three tokens likely, which ones the token before says.
struct Remembering;

impl Lessons for Remembering {
    fn of(&self, rows: &[Vec<u32>]) -> prune::Result<TopTokens> {
        let mut top = TopTokens { k: 3, ..TopTokens::default() };
        for token in rows.iter().flat_map(|row| &row[..row.len() - 1]) {
            top.ids.extend([token % 64, (token + 5) % 64, (token + 23) % 64]);
            top.log_probs.extend([0.5f32, 0.3, 0.1].map(f32::ln));
            top.rest.push(0.1f32.ln());
        }
        Ok(top)
    }
}

/// Reports of some steps, and the parameters after them.
fn trained(
    dir: &std::path::Path,
    is_taught: bool,
    collective: Option<&dyn Collective>,
) -> (Vec<StepReport>, Vec<Vec<f32>>) {
    // a micro-batch holds some of the sequences, so that a step has several
    let settings =
        HealSettings { rank: 4.into(), dropout: 0.1, lr: 1e-2, steps: 4, pass_tokens: 24, ..HealSettings::default() };
    let model = open(dir, &settings);
    let mut trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 9)).unwrap();
    if is_taught {
        trainer = trainer.taught_by(&Remembering);
    }
    if let Some(collective) = collective {
        trainer = trainer.together(collective);
    }
    let reports = (0..4).map(|step| trainer.step(&rows(step)).unwrap()).collect();
    let values = parameters(&model).unwrap();
    let values = values.iter().map(|(_, tensor)| tensor.flatten_all().unwrap().to_vec1().unwrap());
    (reports, values.collect())
}

#[test]
fn one_process_is_many() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    for is_taught in [false, true] {
        same_in_many(dir.path(), is_taught);
    }
}

fn same_in_many(dir: &std::path::Path, is_taught: bool) {
    let alone = trained(dir, is_taught, None);
    for size in [1, 2, 3, 9] {
        let met = Met { size, parts: Mutex::new((0..size).map(|_| Vec::new()).collect()), arrived: Barrier::new(size) };
        let found: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..size)
                .map(|rank| {
                    let met = &met;
                    scope.spawn(move || trained(dir, is_taught, Some(&Threads { rank, met })))
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (rank, found) in found.iter().enumerate() {
            assert!(*found == alone, "process {rank} of {size} differs from one alone");
        }
    }
}
