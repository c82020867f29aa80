//! A search that is killed or interrupted in the middle ends with the bytes of one that was not, and what it had
//! measured is not measured again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prune::commands::analyze::{AnalyzeReport, AnalyzeSettings, analyze};
use prune::progress::{Progress, Silent, Unit};

use crate::fixture::Llama;
use crate::fixture::desk::Desk;
use crate::fixture::killer::Killer;

/// Counts the tokens that are measured without layers.
#[derive(Default)]
struct Counter(AtomicU64);

impl Progress for Counter {
    fn begin(&self, what: &str, total: u64, _unit: Unit) {
        if what.starts_with("measuring") {
            self.0.fetch_add(total, Ordering::Relaxed);
        }
    }
    fn advance(&self, _units: u64) {}
    fn end(&self) {}
    fn warn(&self, _message: &str) {}
}

fn counted(settings: &AnalyzeSettings) -> (AnalyzeReport, u64) {
    let counter = Counter::default();
    let report = analyze(settings, &counter).unwrap();
    (report, counter.0.into_inner())
}

fn settings(desk: &Desk, out: &str, method: &str) -> AnalyzeSettings {
    let name = |name: &str| Some(desk.path(name).display().to_string());
    AnalyzeSettings {
        model: name("model"),
        data: name("text.jsonl").into_iter().collect(),
        method: Some(prune::methods::method(method).unwrap()),
        out: Some(desk.path(out)),
        ..AnalyzeSettings::default()
    }
}

fn desk() -> Desk {
    let desk = Desk::new();
    Llama { layers: 6, ..Llama::default() }.write(&desk.path("model"));
    desk
}

#[test]
#[ignore = "runs only as the victim of the tests below"]
fn victim() {
    let Ok(file) = std::env::var("PRUNE_TEST_SEARCH") else { return };
    let lines = std::env::var("PRUNE_TEST_LINES").unwrap().parse().unwrap();
    let settings: AnalyzeSettings = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut journal = settings.out.clone().unwrap().into_os_string();
    journal.push(".analyzing/journal.jsonl");
    analyze(&settings, &Killer { journal: journal.into(), lines }).unwrap();
}

/// Kills the analysis once there are so many lines in its journal.
fn killed(desk: &Desk, settings: &AnalyzeSettings, lines: usize) -> String {
    fs::write(desk.path("settings.json"), serde_json::to_string(settings).unwrap()).unwrap();
    let ended = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "importance::killed::victim", "--ignored"])
        .env("PRUNE_TEST_SEARCH", desk.path("settings.json"))
        .env("PRUNE_TEST_LINES", lines.to_string())
        .output()
        .unwrap();
    assert!(!ended.status.success());
    assert!(!settings.out.as_ref().unwrap().exists(), "nothing stands before it is whole");
    fs::read_to_string(journal(settings)).unwrap()
}

fn journal(settings: &AnalyzeSettings) -> PathBuf {
    let mut path = settings.out.clone().unwrap().into_os_string();
    path.push(".analyzing/journal.jsonl");
    path.into()
}

fn bytes(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("analysis.json")).unwrap()
}

fn goes_on(method: &str, lines: usize) {
    let desk = desk();
    goes_on_with(&desk, &settings(&desk, "killed", method), lines);
}

fn goes_on_with(desk: &Desk, settings: &AnalyzeSettings, lines: usize) {
    let (whole, all) = counted(&AnalyzeSettings { out: Some(desk.path("whole")), ..settings.clone() });
    let kept = killed(desk, settings, lines);
    let known = kept.lines().count();
    assert!(known >= lines, "{known}");
    // the last line may have been cut short
    fs::write(journal(settings), &kept[..kept.len() - 3]).unwrap();
    let (report, rest) = counted(settings);
    assert_eq!(report.pass.unwrap().recalled, known - 1);
    assert_eq!(bytes(&desk.path("killed")), bytes(&desk.path("whole")));
    assert_eq!(report.analysis, whole.analysis);
    assert!(rest < all, "{rest} of {all} tokens were measured after the kill");
    let names: Vec<String> = desk.names().into_iter().filter(|name| !name.starts_with("other")).collect();
    assert_eq!(names, ["killed", "model", "settings.json", "text.jsonl", "whole"]);
}

#[test]
fn a_killed_search_goes_on_with_what_it_had_measured() {
    goes_on("sleb", 8);
    goes_on("beam", 20);
    goes_on("finercut", 14);
}

/// In the search of the first text, and of the second; another order of them is another work.
#[test]
fn a_killed_search_of_several_texts_goes_on() {
    let desk = desk();
    fs::write(desk.path("other.jsonl"), "{\"text\": \"w9 w3 w5 w4 w8\"}\n{\"text\": \"w6 w7 w3\"}\n").unwrap();
    let mut settings = settings(&desk, "killed", "sleb");
    settings.layers = Some(3);
    settings.data.push(desk.path("other.jsonl").display().to_string());
    // 16 candidates of one text, as many of the other
    for lines in [6, 20] {
        goes_on_with(&desk, &settings, lines);
        fs::remove_dir_all(desk.path("killed")).unwrap();
        fs::remove_dir_all(desk.path("whole")).unwrap();
    }
    let data = [1, 0].map(|place: usize| settings.data[place].clone()).to_vec();
    killed(&desk, &settings, 6);
    let turned = counted(&AnalyzeSettings { data, ..settings.clone() }).0;
    assert_eq!(turned.pass.unwrap().recalled, 0);
}

/// Every candidate is measured once, by whichever process: the tokens of a killed run and of the one that finishes are
/// those of one that was not killed.
#[test]
fn the_measurements_of_two_processes_are_those_of_one() {
    let desk = desk();
    let settings = settings(&desk, "out", "sleb");
    let whole = AnalyzeSettings { out: Some(desk.path("whole")), ..settings.clone() };
    let (_, all) = counted(&whole);
    // before the first candidate all is to be done but the scores; after the last one nothing is
    killed(&desk, &settings, 1);
    let fewest = fs::read_to_string(journal(&settings)).unwrap().lines().count();
    let (report, rest) = counted(&AnalyzeSettings { layers: Some(5), ..settings.clone() });
    assert_eq!(report.pass.unwrap().recalled, fewest);
    assert!(0 < rest && rest < all);
    // another size goes on from it, another text, seed or metric does not
    for (changed, goes_on) in [
        (AnalyzeSettings { layers: Some(2), ..settings.clone() }, true),
        (AnalyzeSettings { samples: Some(5), ..settings.clone() }, false),
        (AnalyzeSettings { seed: Some(4), ..settings.clone() }, false),
        (AnalyzeSettings { protect_first: 1, ..settings.clone() }, false),
    ] {
        fs::remove_dir_all(desk.path("out")).unwrap();
        let known = killed(&desk, &settings, 3).lines().count();
        let (report, _) = counted(&changed);
        assert_eq!(report.pass.unwrap().recalled, if goes_on { known } else { 0 });
    }
    // a model that changed
    fs::remove_dir_all(desk.path("out")).unwrap();
    killed(&desk, &settings, 3);
    Llama { layers: 6, seed: 9, ..Llama::default() }.write(&desk.path("model"));
    assert_eq!(counted(&settings).0.pass.unwrap().recalled, 0);
}

/// Ctrl-C says that the same command goes on, and it does; without an output nothing is kept.
#[test]
fn an_interrupted_search_says_how_to_go_on() {
    let desk = desk();
    Llama { layers: 12, hidden: 128, mlp: 256, heads: 4, kv_heads: 2, head_dim: 32, ..Llama::default() }
        .write(&desk.path("model"));
    let line = "analyze model --data text.jsonl --method beam --threads 1";
    let mut search = desk.command(&format!("{line} -o out --quiet"));
    let child = search.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (journal, started) = (desk.path("out.analyzing/journal.jsonl"), Instant::now());
    while !fs::read_to_string(&journal).is_ok_and(|text| text.lines().count() > 12) {
        assert!(started.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: the process is this one's child, and not reaped
    unsafe { libc::kill(libc::pid_t::try_from(child.id()).unwrap(), libc::SIGINT) };
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("goes on where it stopped when the same command is given again"), "{said}");
    assert!(!desk.path("out").exists() && journal.exists());
    let recalled = desk.json(&format!("{line} -o out --json"))["pass"]["recalled"].as_u64().unwrap();
    assert!(recalled > 12);
    let alone = desk.json(&format!("{line} --json"));
    assert_eq!(alone["pass"].get("recalled"), None);
    let found = prune::importance::Analysis::read(&desk.path("out/analysis.json")).unwrap();
    assert_eq!(serde_json::to_value(&found.search).unwrap(), alone["analysis"]["search"]);
    assert_eq!(desk.names(), ["model", "out", "text.jsonl"]);
}

/// An output that stands is whole: what lies beside it goes with the next command, which says that it exists.
#[test]
fn work_whose_output_has_its_place_is_cleared() {
    let desk = desk();
    let settings = settings(&desk, "out", "sleb");
    killed(&desk, &settings, 3);
    let copy = |from: &Path, to: &Path| {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
        }
    };
    copy(&desk.path("out.analyzing"), &desk.path("before"));
    analyze(&settings, &Silent).unwrap();
    // of another analysis, it stays
    copy(&desk.path("before"), &desk.path("out.analyzing"));
    assert_eq!(analyze(&settings, &Silent).unwrap_err().exit_code(), 2);
    assert!(desk.path("out.analyzing").exists());
    let digest = prune::checkpoint::sha256(&desk.path("out/analysis.json"), &Silent).unwrap();
    fs::write(desk.path("out.analyzing/done"), digest).unwrap();
    assert_eq!(analyze(&settings, &Silent).unwrap_err().exit_code(), 2);
    assert_eq!(desk.names(), ["before", "model", "out", "settings.json", "text.jsonl"]);
}
