//! Killed at any call that writes, or in the middle of what it writes, the same command finishes: with the same bytes,
//! nothing beside them, and whatever others have beside them as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Mutex;

use rayon::prelude::*;
use regex::Regex;
use sha2::{Digest, Sha256};

use crate::fixture::desk::Desk;
use crate::fixture::material::skipped;
use crate::outputs::commands::{COMMANDS, Making, Thing, copy, desk, strangers_beside, timeless, tree};
use crate::outputs::traced::{self, Ended, Stop};

type Tree = BTreeMap<String, Thing>;

/// Moments of each command and form; with the variable below, all there are.
const MOMENTS: usize = 14;
const EVERY: &str = "PRUNE_TEST_EVERY_CALL";

/// A command as it is killed: where it begins, and what it ends with.
struct Case<'a> {
    making: &'a Making,
    line: String,
    begin: Desk,
    before: Tree,
    expected: Tree,
    /// What the disk held at moments from which the command went on and ended as it should.
    finished: Mutex<BTreeSet<String>>,
}

/// One thread, so that the calls come in one order.
fn command(desk: &Desk, line: &str) -> Command {
    desk.command(&format!("{line} --threads 1 --quiet"))
}

fn stopped(desk: &Desk, line: &str, stop: Stop) -> Ended {
    traced::run(command(desk, line), &desk.path("").canonicalize().unwrap(), stop).unwrap()
}

impl<'a> Case<'a> {
    /// The case, and its calls.
    fn new(making: &'a Making, line: String, begin: Desk) -> (Self, Vec<bool>) {
        let whole = again(&begin);
        let Ended { calls, code, said } = stopped(&whole, &line, Stop::Never);
        assert_eq!(code, Some(0), "{line}: {said}");
        let (before, expected) = (timeless(&begin.path("")), timeless(&whole.path("")));
        (Self { making, line, begin, before, expected, finished: Mutex::default() }, calls)
    }

    /// Stopped there, and for every third moment once more in the run that finishes, the command is given again.
    fn finishes(&self, stop: Stop, then: Stop) {
        let (desk, line) = (again(&self.begin), &self.line);
        let at = format!("{line}: {stop:?}, {then:?}");
        for stop in [stop, then].into_iter().filter(|stop| *stop != Stop::Never) {
            let Ended { code, said, .. } = stopped(&desk, line, stop);
            let is_interrupt = matches!(stop, Stop::Interrupt(_));
            assert!(matches!(code, None | Some(0 | 2)) || (is_interrupt && code == Some(130)), "{at}: {code:?} {said}");
            let now = timeless(&desk.path(""));
            self.strangers_stand(&now, &at);
            if self.making.is_whole {
                let now = below(&now);
                let stands = [Tree::new(), below(&self.before), below(&self.expected)];
                assert!(stands.contains(&now), "{at}: neither whole nor as it was: {:?}", now.keys());
            }
        }
        let held = held(&desk);
        if self.finished.lock().unwrap().contains(&held) {
            return;
        }
        let done = command(&desk, line).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        // an output that stands is whole: to say so is to finish
        let stands = done.status.code() == Some(2) && said.contains("exists; --force");
        assert!(done.status.success() || stands, "{at}: {said}");
        let found = timeless(&desk.path(""));
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&self.expected), "{at}: {said}");
        let differing: Vec<_> = found.keys().filter(|name| found[*name] != self.expected[*name]).collect();
        assert!(differing.is_empty(), "{at}: other bytes in {differing:?}");
        self.finished.lock().unwrap().insert(held);
    }

    fn strangers_stand(&self, now: &Tree, at: &str) {
        for (name, thing) in self.before.iter().filter(|(name, _)| !is_output(name)) {
            assert_eq!(now.get(name), Some(thing), "{at}: {name} changed");
        }
    }
}

/// What is the command's: its output, its work and its table.
fn is_output(name: &str) -> bool {
    let top = name.split('/').next().unwrap();
    let work = ["out.healing", ".out.healing.prune", "out.analyzing", ".out.analyzing.prune"];
    ["out", "out.csv", ".out.prune", ".out.csv.prune"].contains(&top) || work.contains(&top)
}

fn below(tree: &Tree) -> Tree {
    tree.iter()
        .filter(|(name, _)| name.starts_with("out/"))
        .map(|(name, thing)| (name.clone(), thing.clone()))
        .collect()
}

/// A digest of everything that is there, times apart: what the command goes on from.
fn held(desk: &Desk) -> String {
    let fraction = Regex::new(r"\d+\.\d+(e-?\d+)?").unwrap();
    let mut whole = Sha256::new();
    for ((name, thing), timeless) in tree(&desk.path("")).into_iter().zip(timeless(&desk.path("")).into_values()) {
        let thing = match (thing, timeless) {
            // seconds are fractions; states that differ in nothing else are one
            (Thing::File(bytes), Thing::File(kept)) if kept.is_empty() => {
                Thing::File(fraction.replace_all(&String::from_utf8_lossy(&bytes), "0").into_owned().into_bytes())
            }
            (_, timeless) => timeless,
        };
        whole.update(format!("{name} {thing:?}\n"));
    }
    format!("{:x}", whole.finalize())
}

/// A copy of a directory, in main memory where there is a place for that: every file is written through to the disk.
fn again(desk: &Desk) -> Desk {
    let other = Desk::bare();
    copy(&desk.path(""), &other.path(""));
    other
}

fn is_every() -> bool {
    std::env::var_os(EVERY).is_some()
}

/// Every kind of stop at calls spread over all of them; the first third more densely, where a place is taken.
fn moments(calls: &[bool]) -> Vec<(Stop, Stop)> {
    let count = calls.len();
    if is_every() {
        let torn = (0..count).filter(|at| calls[*at]).map(Stop::Tear);
        return (0..count)
            .map(Stop::Kill)
            .chain(torn)
            .chain((0..count).map(Stop::Interrupt))
            .map(twice(count))
            .collect();
    }
    let early = MOMENTS / 3;
    let spread = (0..MOMENTS - early).map(|place| place * count / (MOMENTS - early));
    let places = (0..early).map(|place| place * 2).chain(spread).enumerate();
    let stops = places.map(|(turn, at)| match turn % 4 {
        3 => Stop::Interrupt(at),
        1 => Stop::Tear((at..count).find(|at| calls[*at]).unwrap_or(at)),
        _ => Stop::Kill(at),
    });
    stops.map(twice(count)).collect()
}

/// A second stop for every third.
fn twice(count: usize) -> impl FnMut(Stop) -> (Stop, Stop) {
    let mut turn = 0;
    move |stop| {
        turn += 1;
        (stop, if turn % 3 == 0 { Stop::Kill(turn * 7919 % count) } else { Stop::Never })
    }
}

fn finishes(name: &str) {
    let making = COMMANDS.iter().find(|making| making.name == name).unwrap();
    let begin = again(&desk());
    if let Err(error) = traced::run(begin.command("doctor"), &begin.path(""), Stop::Never) {
        return skipped(&format!("a process that can be traced: {error}"));
    }
    strangers_beside(&begin);
    let mut cases = vec![Case::new(making, making.line.to_owned(), again(&begin))];
    // what another run of the command left is replaced
    let made = command(&begin, &making.other_line()).output().unwrap();
    assert!(made.status.success(), "{}: {}", making.other_line(), String::from_utf8_lossy(&made.stderr));
    cases.push(Case::new(making, making.replacing(), begin));
    for (case, calls) in cases {
        assert!(calls.len() > 10 && calls.contains(&true), "{}: {} calls", case.line, calls.len());
        let moments = moments(&calls);
        let finishes = |(stop, then): &(Stop, Stop)| case.finishes(*stop, *then);
        // a thread traces what it started; a sample leaves the cores to the tests beside it
        match is_every() {
            true => moments.par_iter().for_each(finishes),
            false => moments.iter().for_each(finishes),
        }
        let states = case.finished.lock().unwrap().len();
        println!("{}: {} calls, {} moments, {states} states", case.line, calls.len(), moments.len());
    }
}

#[test]
fn analyze() {
    finishes("analyze");
}

#[test]
fn search() {
    finishes("search");
}

#[test]
fn cut() {
    finishes("cut");
}

#[test]
fn grow() {
    finishes("grow");
}

#[test]
fn heal() {
    finishes("heal");
}

#[test]
fn teach() {
    finishes("teach");
}

#[test]
fn eval() {
    finishes("eval");
}

#[test]
fn merge() {
    finishes("merge");
}

#[test]
fn run() {
    finishes("run");
}

#[test]
fn demo() {
    finishes("demo");
}
