//! What is done once, by whom, and what goes on.

use std::fs;
use std::time::Duration;

use super::*;
use crate::checkpoint::OutputDir;
use crate::commands::run::stage::{Job, Step};
use crate::progress::Silent;

fn worker(shard: Option<&str>) -> Worker {
    Worker { shard: shard.map(|shard| shard.parse().unwrap()), timeout: Duration::from_millis(800) }
}

fn alone() -> Worker {
    worker(None)
}

fn stage<'a>(name: &'a str, key: &str) -> Stage<'a> {
    Stage { name, key: key.to_owned(), needed: Some(name) }
}

fn done<T: std::fmt::Debug>(step: Step<T>) -> T {
    match step {
        Step::Is(done) => done,
        Step::Waits => panic!("another is at it"),
    }
}

fn make(state: &mut State, stage: &Stage<'_>, result: usize) -> Result<usize> {
    state.run(stage, &Silent, |job, _| write(job, result)).map(done)
}

fn write(job: &Job<'_>, result: usize) -> Result<usize> {
    let made = OutputDir::create(&job.out, true, &Origin::program("test"))?;
    write_new(&made.path().join("file"), result.to_string())?;
    made.commit().map(|()| result)
}

#[test]
fn what_is_done_stays_done_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut state = State::open(&run, &alone()).unwrap();
    assert!(State::open(&run, &alone()).unwrap_err().to_string().contains("another run"));
    let other = OutputDir::create(&run, true, &Origin::program("cut")).unwrap_err().to_string();
    assert!(other.contains("another run"), "nor does another command replace it meanwhile: {other}");
    assert_eq!(make(&mut state, &stage("a/b", "1"), 7).unwrap(), 7);
    assert_eq!(make(&mut state, &stage("a/b", "1"), 8).unwrap(), 7, "not done again");
    drop(state);
    let mut state = State::open(&run, &alone()).unwrap();
    assert_eq!(make(&mut state, &stage("a/b", "1"), 8).unwrap(), 7, "nor by the next process");
    assert_eq!(make(&mut state, &stage("a/b", "2"), 9).unwrap(), 9);
    assert_eq!(fs::read_to_string(run.join("a/b/file")).unwrap(), "9");

    fs::remove_dir_all(run.join("a")).unwrap();
    let unneeded = Stage { needed: None, ..stage("a/b", "2") };
    assert_eq!(make(&mut state, &unneeded, 1).unwrap(), 9);
    assert_eq!(make(&mut state, &stage("a/b", "2"), 1).unwrap(), 1, "its output is gone and needed");
    drop(state);
    // killed between putting the state in its place and removing what it was written in
    let left = run.join(".run.json.prune");
    fs::create_dir(&left).unwrap();
    drop(State::open(&run, &alone()).unwrap());
    assert!(!left.exists());
}

#[test]
fn an_unfinished_stage_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = State::open(dir.path(), &alone()).unwrap();
    let fail = |state: &mut State, key: &str| {
        let failed = state.run::<usize>(&stage("a", key), &Silent, |job, _| {
            let before = job.out.join("half").exists();
            if !before {
                let made = OutputDir::create(&job.out, true, &Origin::program("test"))?;
                write_new(&made.path().join("half"), "x")?;
                made.commit()?;
            }
            Err(Error::work(format!("found {before}")))
        });
        failed.unwrap_err().to_string()
    };
    assert_eq!(fail(&mut state, "1"), "a: found false");
    let worked = |state: &State, key: &str| state.worked(&stage("a", key));
    let before = worked(&state, "1").unwrap();
    assert_eq!(fail(&mut state, "1"), "a: found true");
    assert!(worked(&state, "1").unwrap() > before, "all processes count");
    assert_eq!(worked(&state, "2"), None);
    assert_eq!(fail(&mut state, "2"), "a: found false", "another recipe's leftovers are gone");
}

#[test]
fn other_directories_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    let error = State::open(dir.path(), &alone()).unwrap_err();
    assert!(error.to_string().contains("holds no run") && error.exit_code() == 2, "{error}");
    fs::write(dir.path().join(FILE), "{}").unwrap();
    assert!(State::open(dir.path(), &alone()).unwrap_err().to_string().contains(FILE));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    assert_eq!(key(&serde_json::json!({"a": 1})).len(), 32);
}

/// Several processes do each stage once between them, and lose nothing of what the others say.
#[test]
fn several_share_the_stages() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let names: Vec<String> = (0..12).map(|cut| format!("cut-{cut}/model")).collect();
    let made: Vec<Vec<String>> = std::thread::scope(|scope| {
        let threads = (1..=4).map(|shard| {
            let (run, names) = (&run, &names);
            scope.spawn(move || {
                let mut state = State::open(run, &worker(Some(&format!("{shard}/4")))).unwrap();
                loop {
                    state.look_again().unwrap();
                    let of = |name: &String| state.run(&stage(name, "1"), &Silent, |job, _| write(job, 7)).unwrap();
                    if names.iter().map(of).all(|step| step == Step::Is(7)) {
                        return state.made().to_vec();
                    }
                    state.wait().unwrap();
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all: Vec<&String> = made.iter().flatten().collect();
    all.sort();
    let mut expected: Vec<&String> = names.iter().collect();
    expected.sort();
    assert_eq!(all, expected, "each once");
    let kept = Kept::read(&run.join(FILE)).unwrap();
    assert!(kept.stages.values().all(|entry| entry.claim == 1 && entry.report.is_some() && entry.by.is_some()));
    // alone again, everything is done, and nothing but the run lies there
    let mut state = State::open(&run, &alone()).unwrap();
    assert!(State::open(&run, &worker(Some("1/2"))).is_err());
    assert_eq!(make(&mut state, &stage("cut-3/model", "1"), 8).unwrap(), 7);
    drop(state);
    let hidden = fs::read_dir(&run).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        name.starts_with('.') && name != ".prune"
    });
    assert_eq!(hidden.count(), 0);
    assert!(OutputDir::create(&run, true, &Origin::program("cut")).is_ok(), "all of it is this program's");
}

/// What fails in one process is not tried by those that were there; those that come later try it.
#[test]
fn a_failure_is_known_to_all() {
    let dir = tempfile::tempdir().unwrap();
    let open = |shard| State::open(dir.path(), &worker(Some(shard))).unwrap();
    let (mut one, mut other) = (open("1/2"), open("2/2"));
    let fails = |_: &Job<'_>, _: &dyn crate::progress::Progress| Err(Error::work("too hot"));
    assert!(one.run::<usize>(&stage("a", "1"), &Silent, fails).is_err());
    other.look_again().unwrap();
    assert_eq!(other.run(&stage("a", "1"), &Silent, |job, _| write(job, 7)).unwrap(), Step::Waits);
    let error = other.failed().unwrap().to_string();
    assert!(error.contains("a failed: too hot (process "), "{error}");
    assert_eq!(open("1/2").run(&stage("a", "1"), &Silent, |job, _| write(job, 7)).unwrap(), Step::Is(7));
    // one with another recipe is told so, instead of undoing what the others do
    assert_eq!(other.run(&stage("b", "1"), &Silent, |job, _| write(job, 7)).unwrap(), Step::Is(7));
    one.look_again().unwrap();
    let error = one.run(&stage("b", "2"), &Silent, |job, _| write(job, 8)).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("another recipe"), "{error}");
}
