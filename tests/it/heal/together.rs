//! One process and many: the same steps give the same bytes; who fails, or is gone, is named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use prune::checkpoint::{Origin, Workplace};
use prune::collective::{Alone, Collective, Sums, share};
use prune::heal::{FixedSamples, Gradients, HealRun, HealSettings, StepReport, Trainer, WorkDir, parameters};
use prune::model::{CheckpointingPolicy, Lessons};
use prune::ops::TopTokens;
use prune::progress::{Progress, Silent};
use prune::{Error, Result};

use crate::fixture::Llama;
use crate::fixture::impatient::Impatient;
use crate::fixture::processes::{LONG, WAYS, Way, groups, in_each};
use crate::heal::model::open;

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
    for (is_taught, way) in [(false, Way::Threads), (true, Way::Threads), (false, Way::Tcp)] {
        same_in_many(dir.path(), is_taught, way);
    }
}

fn same_in_many(dir: &std::path::Path, is_taught: bool, way: Way) {
    let alone = trained(dir, is_taught, None);
    // a launcher says nothing of one alone
    let sizes = if matches!(way, Way::Tcp) { &[2, 3, 9][..] } else { &[1, 2, 3, 9] };
    for &size in sizes {
        let found = in_each(way, size, |group| {
            let found = trained(dir, is_taught, Some(&group));
            group.close(Ok(found)).unwrap()
        });
        for (rank, found) in found.iter().enumerate() {
            assert!(*found == alone, "{way:?}: process {rank} of {size} differs from one alone");
        }
    }
}

/// What a run that process 0 leads is made of.
struct Led<'a> {
    model: &'a std::path::Path,
    out: &'a std::path::Path,
    settings: HealSettings,
}

impl Led<'_> {
    /// Runs, or goes on, as a process of `group`; the parameters then.
    fn run(&self, group: &dyn Collective, progress: &dyn Progress) -> Result<Vec<Vec<f32>>> {
        let settings = &self.settings;
        // the others begin elsewhere: what process 0 has is what counts
        let seed = settings.seed + group.rank() as u64;
        let model = open(self.model, &HealSettings { seed, ..settings.clone() });
        let trainer = Trainer::new(&model, None, settings, CheckpointingPolicy::on(&Device::Cpu, 9))?;
        let mut trainer = trainer.together(group);
        let values = || parameters(&model).unwrap().iter().map(|(_, tensor)| flat(tensor)).collect();
        if group.rank() > 0 {
            assert_eq!(trainer.follow()?, settings.steps);
            return Ok(values());
        }
        let place = Arc::new(Workplace::open(self.out, &Origin::of("heal", settings)?)?);
        let dir = WorkDir::open(place, &settings.deciding(), false, false)?;
        let validation = rows(99);
        let (tasks, ends) = (None, &[0][..]);
        let mut run = HealRun { model: &model, trainer, settings, dir: &dir, validation: &validation, tasks, ends };
        let place = run.restore()?;
        let all = (0..9).flat_map(rows).collect();
        let mut samples = FixedSamples::new(all, place.as_ref().map(|place| &place.position));
        let done = run.train(place, &mut samples, progress)?;
        assert_eq!(done.steps, settings.steps);
        Ok(values())
    }
}

fn flat(tensor: &candle_core::Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Gradients that go in several pieces, and some that only one process has, add up as one process adds them.
#[test]
fn sums_of_several_pieces() {
    let numbers = |part: usize, len: usize| {
        let numbers: Vec<f32> = (0..len).map(|i| ((i * 31 + part * 17) % 1009) as f32 * 1e-3 + part as f32).collect();
        Tensor::from_vec(numbers, len, &Device::Cpu).unwrap()
    };
    // six micro-batches, those of one process neighbours; the second and the last lack one, one is the fourth's alone
    let parts = |rank: usize, size: usize| -> Vec<Sums> {
        let part = |part: usize| {
            let mut gradients = Gradients::from([("wide".to_owned(), numbers(part, (5 << 19) + 3))]);
            if part != 1 && part != 5 {
                gradients.insert("some".to_owned(), numbers(part, 7));
            }
            if part == 3 {
                gradients.insert("alone".to_owned(), numbers(part, (1 << 20) + 1));
            }
            Sums { gradients, ..Sums::default() }
        };
        share(6, rank, size).map(part).collect()
    };
    let values = |sums: Sums| -> BTreeMap<String, Vec<f32>> {
        sums.gradients.into_iter().map(|(name, gradient)| (name, gradient.to_vec1().unwrap())).collect()
    };
    let alone = values(Alone.sum(parts(0, 1)).unwrap());
    assert_eq!(alone.keys().collect::<Vec<_>>(), ["alone", "some", "wide"]);
    for (size, way) in [2, 3, 8].into_iter().flat_map(|size| WAYS.map(|way| (size, way))) {
        let found = in_each(way, size, |group| {
            let sums = group.sum(parts(group.rank(), size)).unwrap();
            values(group.close(Ok(sums)).unwrap())
        });
        assert!(found.iter().all(|found| *found == alone), "{way:?}: {size} processes");
    }
}

/// A run over two processes that is stopped after two steps and goes on over three is one that a process did alone.
#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    let dir = tempfile::tempdir().unwrap();
    let (model, at) = (dir.path().join("model"), |name: &str| dir.path().join(name));
    Llama::default().write(&model);
    let settings = HealSettings {
        model: Some(model.display().to_string()),
        rank: 4.into(),
        dropout: 0.1,
        lr: 1e-2,
        steps: 6,
        batch: 7,
        pass_tokens: 24,
        seq_len: Some(24),
        eval_every: 3,
        save_every: 4,
        keep_last: true,
        ..HealSettings::default()
    };
    let led = |out| Led { model: &model, out, settings: settings.clone() };
    let (alone, together) = (at("alone"), at("together"));
    let expected = led(&alone).run(&prune::collective::Alone, &Silent).unwrap();
    let log = |out: &std::path::Path| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(WorkDir::place(out).join("log.jsonl")).unwrap();
        let mut lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            line.as_object_mut().unwrap().retain(|key, _| !["tokens_per_second", "memory_mib"].contains(&&**key));
        }
        lines
    };

    let impatient = Impatient::default();
    let stopped = in_each(Way::Threads, 2, |group| {
        let run = || led(&together).run(&group, &impatient);
        let done = if group.rank() == 0 { impatient.interrupt.run(run) } else { run() };
        group.close(done)
    });
    for (rank, stopped) in stopped.iter().enumerate() {
        assert!(matches!(stopped, Err(Error::Interrupted)), "{rank}: {stopped:?}");
    }
    assert_eq!(WorkDir::peek(&together).unwrap().unwrap().step, 2);
    let done = in_each(Way::Tcp, 3, |group| {
        let done = led(&together).run(&group, &Silent);
        group.close(done).unwrap()
    });
    assert!(done.iter().all(|values| *values == expected), "other bytes than alone");
    assert_eq!(log(&together), log(&alone));
}

/// One that cannot go on says why, and all end with that.
#[test]
fn a_fault_ends_all() {
    for (faulty, way) in [0, 2].into_iter().flat_map(|faulty| WAYS.map(|way| (faulty, way))) {
        let ended = in_each(way, 3, |group| {
            let work = || {
                if group.rank() == faulty {
                    return Err(Error::request("no such model"));
                }
                group.gather()?;
                group.broadcast(vec![7]).map(drop)
            };
            let (rank, done) = (group.rank(), work());
            (rank, group.close(done))
        });
        for (rank, ended) in ended {
            let error = ended.unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("no such model"), "{way:?} {rank}: {error}");
            let named = error.to_string().contains(&format!("process {faulty}"));
            assert!(rank == faulty || named, "{way:?} {rank}: {error}");
        }
    }
}

/// One that says nothing is named by its number once patience is at its end, to all others.
#[test]
fn who_is_gone_is_named() {
    for (gone, way) in [0, 1].into_iter().flat_map(|gone| WAYS.map(|way| (gone, way))) {
        // a connection ends with its process: there it is known at once
        let (patience, word) = match way {
            Way::Threads => (Duration::from_secs(2), "--rank-timeout"),
            Way::Tcp => (LONG, "without a word"),
        };
        let mut groups = groups(way, 3, patience);
        // as if it had been killed: no word of it
        drop(groups.remove(gone));
        let started = Instant::now();
        std::thread::scope(|scope| {
            let started: Vec<_> = groups
                .into_iter()
                .map(|group| {
                    scope.spawn(move || {
                        let done = group.gather().and_then(|()| group.broadcast(vec![7; 9]));
                        group.close(done).unwrap_err().to_string()
                    })
                })
                .collect();
            for thread in started {
                let error = thread.join().unwrap();
                assert!(error.contains(&format!("process {gone} of 3")) && error.contains(word), "{way:?}: {error}");
            }
        });
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    }
}

/// A process that computes for longer than patience lasts is there all the while.
#[test]
fn who_is_slow_is_waited_for() {
    for way in WAYS {
        std::thread::scope(|scope| {
            let started: Vec<_> = groups(way, 2, Duration::from_secs(3))
                .into_iter()
                .map(|group| {
                    scope.spawn(move || {
                        if group.rank() == 1 {
                            std::thread::sleep(Duration::from_secs(5));
                        }
                        let done = group.gather().and_then(|()| group.broadcast(vec![group.rank() as u8; 3 << 20]));
                        group.close(done).unwrap()
                    })
                })
                .collect();
            assert!(started.into_iter().all(|thread| thread.join().unwrap() == vec![0; 3 << 20]), "{way:?}");
        });
    }
}
