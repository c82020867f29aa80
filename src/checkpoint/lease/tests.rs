//! One holder at a time, whatever dies, stops or wakes.

use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::checkpoint::mark::claim;
use crate::checkpoint::{create_dir, write_new};

fn leases(dir: &Path, timeout: Duration) -> Leases {
    Leases::of(dir, "run", timeout, None)
}

fn granted(leases: &Leases, what: &str) -> Lease {
    match leases.ask(what, "", 0).unwrap() {
        Asked::Granted(lease) => lease,
        Asked::Held(holder) => panic!("held by {holder}"),
    }
}

fn home() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    mark(dir.path(), "run", &[]).unwrap();
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != MARK);
    names.sort();
    names
}

/// The lease of a process of another machine: nothing tells whether it lives but its beat.
fn foreign(dir: &Path, slug: &str, number: u64) -> PathBuf {
    let dir = place(dir, slug, number);
    let mut other = holder(&dir).unwrap();
    other.machine = "another".to_owned();
    fs::write(dir.join(HOLDER), serde_json::to_vec(&other).unwrap()).unwrap();
    dir
}

/// Of many who ask at once, one gets each lease; with none left, nothing lies there.
#[test]
fn one_of_many_wins() {
    let dir = home();
    let threads = 12;
    let (wins, within) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for round in 0..20 {
        let (start, end) = (Barrier::new(threads), Barrier::new(threads));
        let what = format!("cut-{round}/model");
        wins.store(0, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let own = leases(dir.path(), Duration::from_secs(60));
                    start.wait();
                    let asked = own.ask(&what, "", 0).unwrap();
                    if matches!(asked, Asked::Granted(_)) {
                        wins.fetch_add(1, Ordering::SeqCst);
                    }
                    end.wait();
                });
            }
        });
        assert_eq!(wins.load(Ordering::SeqCst), 1, "{round}");
    }
    // again and again the same one, each time by one alone
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let own = leases(dir.path(), Duration::from_secs(60));
                let mut left = 25;
                while left > 0 {
                    if let Asked::Granted(lease) = own.ask("run.json", "", 0).unwrap() {
                        assert_eq!(within.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        within.fetch_sub(1, Ordering::SeqCst);
                        drop(lease);
                        left -= 1;
                    }
                }
            });
        }
    });
    assert_eq!(names(dir.path()), [""; 0]);
}

/// Of many who have seen a holder fall silent, one takes over.
#[test]
fn one_of_many_succeeds() {
    let dir = home();
    let timeout = Duration::from_millis(400);
    for round in 0..5 {
        let mut silent = granted(&leases(dir.path(), timeout), "stage");
        silent.fall_silent();
        foreign(dir.path(), "stage", silent.number());
        let wins = AtomicUsize::new(0);
        let all = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let own = leases(dir.path(), timeout);
                    let began = Instant::now();
                    let mut lease = None;
                    while lease.is_none() && wins.load(Ordering::SeqCst) == 0 {
                        match own.ask("stage", "", 0).unwrap() {
                            Asked::Granted(granted) => {
                                assert!(began.elapsed() >= timeout);
                                wins.fetch_add(1, Ordering::SeqCst);
                                lease = Some(granted);
                            }
                            Asked::Held(_) => std::thread::sleep(Duration::from_millis(10)),
                        }
                    }
                    all.wait();
                });
            }
        });
        assert_eq!(wins.load(Ordering::SeqCst), 1, "{round}");
        assert!(silent.is_lost());
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

/// What a holder that woke does changes nothing: its files have lost their place, whatever it believes.
#[test]
fn a_holder_that_wakes_touches_nothing() {
    let dir = home();
    let timeout = Duration::from_millis(200);
    let mut silent = granted(&leases(dir.path(), timeout), "a/scores");
    for name in ["scores", "scores.healing"] {
        create_dir(&silent.work().join(name)).unwrap();
        write_new(&silent.work().join(name).join("file"), "first").unwrap();
    }
    silent.fall_silent();
    foreign(dir.path(), "a@scores", 1);
    let mut open = fs::OpenOptions::new().append(true).open(silent.work().join("scores.healing/file")).unwrap();
    let own = leases(dir.path(), timeout);
    let next = loop {
        match own.ask("a/scores", "", 0).unwrap() {
            Asked::Granted(lease) => break lease,
            Asked::Held(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    // what was unfinished goes on, and is not what the other one has open
    assert_eq!(names(next.work()), ["scores", "scores.healing"]);
    open.write_all(b" and more").unwrap();
    assert_eq!(fs::read_to_string(next.work().join("scores.healing/file")).unwrap(), "first");
    let target = dir.path().join("a");
    create_dir(&target).unwrap();
    let target = target.join("scores");
    claim(&target).unwrap();
    fs::write(next.work().join("scores/file"), "second").unwrap();
    next.place("scores", &target).unwrap();
    assert!(silent.is_lost() && silent.check().is_err() && silent.interrupt().check().is_err());
    assert!(silent.place("scores", &target).is_err() && silent.discard(&target, false).is_err());
    // even one that has not looked
    silent.believe();
    assert!(fs::rename(silent.work().join("scores"), &target).is_err());
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "second");
    drop(silent);
    assert!(next.check().is_ok());
    drop(next);
    assert_eq!(names(dir.path()), ["a"]);
}

/// A process of this machine that died is succeeded at once; one that is only slow is not, whoever looks for how long.
#[test]
fn the_dead_are_known_and_the_living_too() {
    let dir = home();
    let slow = granted(&leases(dir.path(), Duration::from_millis(400)), "stage");
    let own = leases(dir.path(), Duration::from_millis(400));
    foreign(dir.path(), "stage", 1);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1200) {
        assert!(matches!(own.ask("stage", "", 0).unwrap(), Asked::Held(_)), "its beat is heard");
        std::thread::sleep(Duration::from_millis(20));
    }
    // one that did not listen for long has not heard long silence
    assert!(own.is_held("stage"));
    std::thread::sleep(Duration::from_millis(600));
    assert!(own.is_held("stage"));
    drop(slow);

    let own = leases(dir.path(), Duration::from_secs(600));
    let mut dead = granted(&own, "stage");
    create_dir(&dead.work().join("model")).unwrap();
    dead.die();
    assert!(standing(dir.path()).unwrap()["stage"].is_dead);
    let next = granted(&own, "stage");
    assert_eq!((next.number(), names(next.work())), (2, vec!["model".to_owned()]));
    drop(next);
    // numbers that were used are not used again
    assert!(matches!(own.ask("stage", "", 7).unwrap(), Asked::Granted(lease) if lease.number() == 8));
    assert_eq!(names(dir.path()), [""; 0]);
}

/// What was killed while it took over is taken over whole: what was copied in part is copied again.
#[test]
fn a_successor_can_die_too() {
    let dir = home();
    let own = leases(dir.path(), Duration::from_secs(600));
    let mut first = granted(&own, "stage");
    first.die();
    let number = first.number();
    drop(first);
    let lease = place(dir.path(), "stage", number);
    let out = entries_of(&lease);
    fs::create_dir(lease.join(FROM)).unwrap();
    for (path, text) in [(lease.join(FROM), "whole"), (lease.join(out), "part")] {
        claim(&path.join("model")).unwrap();
        fs::create_dir(path.join("model")).unwrap();
        mark(&path.join("model"), "cut", &["file"]).unwrap();
        fs::write(path.join("model/file"), text).unwrap();
    }
    let next = granted(&own, "stage");
    assert_eq!(fs::read_to_string(next.work().join("model/file")).unwrap(), "whole");
    drop(next);
    // one that had not got its lease yet
    let mut never = granted(&own, "other");
    never.die();
    fs::rename(place(dir.path(), "other", never.number()), dir.path().join(".other.p0123456789abcdef.prune")).unwrap();
    own.sweep(false);
    assert_eq!(names(dir.path()), [""; 0]);
}

/// One that looked while another was succeeded takes a number too low: it goes without a trace, and who was succeeded
/// does not take it for his own.
#[test]
fn who_comes_too_late_leaves_nothing() {
    let dir = home();
    let own = leases(dir.path(), Duration::from_secs(600));
    let mut silent = granted(&own, "stage");
    silent.fall_silent();
    let second = own.take("stage", "", 2).unwrap().unwrap();
    second.succeed_all("stage").unwrap();
    let late = own.take("stage", "", 1).unwrap().unwrap();
    late.withdraw();
    assert_eq!(names(dir.path()), [".stage.2.prune"]);
    drop(second);
    let late = own.take("stage", "", 1).unwrap().unwrap();
    assert!(silent.is_lost() && !late.is_lost());
    drop(silent);
    assert!(!late.is_lost());
    drop(late);
    assert_eq!(names(dir.path()), [""; 0]);

    // a number that was seen is not taken, whether its holder can be read or not
    drop(granted(&own, "stage"));
    fs::create_dir(place(dir.path(), "stage", 4)).unwrap();
    mark(&place(dir.path(), "stage", 4), "run", &[]).unwrap();
    let next = granted(&own, "stage");
    assert_eq!((next.number(), names(dir.path())), (5, vec![".stage.5.prune".to_owned()]));
}

fn entries_of(lease: &Path) -> String {
    names(lease).into_iter().find(|name| name.starts_with(OUT)).unwrap()
}
