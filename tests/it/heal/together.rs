//! One process and many: the same steps give the same bytes.

use std::sync::{Barrier, Mutex};

use candle_core::Device;
use prune::heal::collective::{Collective, Sums};
use prune::heal::{HealSettings, StepReport, Trainer, parameters};
use prune::model::CheckpointingPolicy;

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

/// Reports of some steps, and the parameters after them.
fn trained(dir: &std::path::Path, collective: Option<&dyn Collective>) -> (Vec<StepReport>, Vec<Vec<f32>>) {
    // a micro-batch holds some of the sequences, so that a step has several
    let settings =
        HealSettings { rank: 4.into(), dropout: 0.1, lr: 1e-2, steps: 4, pass_tokens: 24, ..HealSettings::default() };
    let model = open(dir, &settings);
    let mut trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 9)).unwrap();
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
    let alone = trained(dir.path(), None);
    for size in [1, 2, 3, 9] {
        let met = Met { size, parts: Mutex::new((0..size).map(|_| Vec::new()).collect()), arrived: Barrier::new(size) };
        let found: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..size)
                .map(|rank| {
                    let (met, dir) = (&met, dir.path());
                    scope.spawn(move || trained(dir, Some(&Threads { rank, met })))
                })
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (rank, found) in found.iter().enumerate() {
            assert!(*found == alone, "process {rank} of {size} differs from one alone");
        }
    }
}
