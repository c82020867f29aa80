//! `prune run --shard`: several processes make what one makes, whoever of them is killed or stopped; `prune status`;
//! and what `--submit` hands to a cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::desk::{Desk, lasting_files};

const RECIPE: &str = r#"
model = "model"

[drop]
layers = [1, 2]
methods = ["similarity", "deepest"]

[analyze]
data = "text.jsonl"

[heal]
data = "text.jsonl"
seq_len = 8
rank = 2
steps = 6
batch = 2
save_every = 1
warmup = 1
lr = 0.05

[eval]
tasks = ["text:text.jsonl"]
"#;

fn desk() -> Desk {
    let desk = Desk::in_memory();
    fs::write(desk.path("recipe.toml"), RECIPE).unwrap();
    desk
}

fn start(desk: &Desk, line: &str) -> Child {
    desk.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> String {
    let output: Output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Every file of a run that stays as it is, but claims that a killed process had not got yet: a run alone removes
/// those.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = lasting_files(dir);
    found.retain(|name, _| !(name.starts_with('.') && name.contains(".p")));
    found
}

/// The same files with the same bytes in two runs.
fn assert_same(desk: &Desk, one: &str, other: &str) {
    let (one, other) = (files(&desk.path(one)), files(&desk.path(other)));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    let differing: Vec<&String> = one.keys().filter(|name| one[*name] != other[*name]).collect();
    assert!(differing.is_empty(), "{differing:?}");
}

/// How often each stage was said to be done.
fn done<'a>(said: impl IntoIterator<Item = &'a String>) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for line in said.into_iter().flat_map(|said| said.lines()) {
        if let Some((before, _)) = line.split_once(": done in ") {
            let name = before.rsplit(' ').next().unwrap().to_owned();
            *times.entry(name).or_insert(0) += 1;
        }
    }
    times
}

fn status(desk: &Desk, dir: &str) -> Vec<Value> {
    let report = desk.json(&format!("status {dir} --json"));
    report["stages"].as_array().unwrap().clone()
}

/// The stage of the run in `job`, once it is so far.
fn until(desk: &Desk, name: &str, state: &str) -> Value {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < Duration::from_secs(60), "{name}: not {state}");
        if desk.path("job/run.json").exists()
            && let Some(stage) = status(desk, "job").into_iter().find(|stage| stage["name"] == name)
            && stage["state"] == state
        {
            return stage;
        }
    }
}

#[test]
fn several_processes_make_what_one_makes() {
    let desk = desk();
    desk.json("run recipe.toml -o job --json");
    let stages = status(&desk, "job").len() - 1;
    // results are called after where a model lies
    fs::rename(desk.path("job"), desk.path("whole")).unwrap();
    for count in [2, 4] {
        if desk.path("job").exists() {
            fs::remove_dir_all(desk.path("job")).unwrap();
        }
        let job = "job";
        let shards: Vec<Child> = (1..=count)
            .map(|shard| start(&desk, &format!("run recipe.toml -o {job} --shard {shard}/{count}")))
            .collect();
        let said: Vec<String> = shards.into_iter().map(end).collect();
        let times = done(&said);
        assert!(times.len() == stages && times.values().all(|times| *times == 1), "{times:?}");
        assert_same(&desk, "whole", job);
        let status = status(&desk, job);
        assert!(status.iter().all(|stage| stage["state"] == "done" && stage["shard"].is_string()), "{status:?}");
    }
    // by what a scheduler says; and with all done there is nothing to wait for
    let auto = desk
        .command("run recipe.toml -o job --shard auto --no-wait --json")
        .envs([("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_COUNT", "2"), ("SLURM_ARRAY_TASK_MIN", "1")])
        .output()
        .unwrap();
    assert!(auto.status.success(), "{}", String::from_utf8_lossy(&auto.stderr));
    let wrong = desk.run("run recipe.toml -o new --shard 3/2");
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(2) && said.contains("--shard") && said.contains("i/n"), "{said}");
    desk.refused("run recipe.toml -o new --shard 1/2 --claim-timeout 0", 2, &["--claim-timeout"]);
}

/// A killed process's stage is taken up at once by another of the machine; one that is stopped for too long loses its
/// own, and changes nothing when it wakes.
#[test]
fn what_is_killed_or_stopped_is_gone_on_with() {
    let desk = desk();
    let set = "--set heal.steps=60 --set drop.methods=[\"deepest\"]";
    desk.json(&format!("run recipe.toml -o job {set} --json"));
    fs::rename(desk.path("job"), desk.path("whole")).unwrap();
    let line = |shard: usize| format!("run recipe.toml -o job {set} --shard {shard}/3 --claim-timeout 3");
    let shards: Vec<Child> = (1..=3).map(|shard| start(&desk, &line(shard))).collect();
    // each in the middle of a healing, or at the latest before the end
    let began = Instant::now();
    let (mut killed, mut stopped) = (None, None);
    while (killed.is_none() || stopped.is_none()) && began.elapsed() < Duration::from_secs(60) {
        if !desk.path("job/run.json").exists() {
            continue;
        }
        for stage in status(&desk, "job") {
            let at = shards.iter().position(|shard| stage["pid"] == json!(shard.id()));
            let Some(at) = at.filter(|_| stage["state"] == "running") else { continue };
            if stopped.is_none() && stage["name"].as_str().unwrap().ends_with("/healed") {
                signal(&shards[at], "-STOP");
                stopped = Some(at);
            } else if killed.is_none() && stopped.is_some_and(|stopped| stopped != at) {
                signal(&shards[at], "-KILL");
                killed = Some(at);
            }
        }
    }
    let stopped = stopped.expect("a healing was under way");
    let mut said = Vec::new();
    let mut asleep = None;
    for (at, shard) in shards.into_iter().enumerate() {
        if at == stopped {
            asleep = Some(shard);
        } else if Some(at) == killed {
            shard.wait_with_output().unwrap();
        } else {
            said.push(end(shard));
        }
    }
    // all is done without the one that sleeps
    assert_same(&desk, "whole", "job");
    let before = files(&desk.path("job"));
    let asleep = asleep.unwrap();
    signal(&asleep, "-CONT");
    said.push(end(asleep));
    assert_eq!(files(&desk.path("job")), before);
    let times = done(&said);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    assert!(said.last().unwrap().contains("another has taken the stage over"), "{}", said.last().unwrap());
    assert!(status(&desk, "job").iter().all(|stage| stage["state"] == "done"));
    // one process finds nothing to do
    let again = desk.json(&format!("run recipe.toml -o job {set} --json"));
    assert!(again["stages"].as_array().unwrap().iter().all(|stage| stage["is_done"] == json!(true)));
}

/// Every state that a stage can be in, and a warning that stops a run as a scheduler gives it.
#[test]
fn the_status_of_all_states() {
    let desk = desk();
    desk.refused("status nowhere", 2, &["nowhere"]);
    desk.refused("status model", 2, &["holds no run"]);
    let set = "--set drop.methods=[\"deepest\"]";
    let output = desk.run(&format!("run recipe.toml -o job {set} --set heal.lr=1e30"));
    assert_eq!(output.status.code(), Some(1));
    let of = |name: &str| status(&desk, "job").into_iter().find(|stage| stage["name"] == name).unwrap();
    let failed = of("deepest-1/healed");
    assert!(failed["state"] == "failed" && failed["error"].as_str().is_some_and(|error| !error.is_empty()), "{failed}");
    assert_eq!((&of("dense/scores")["state"], &of("deepest-2/model")["state"]), (&json!("done"), &json!("waiting")));
    let said = String::from_utf8(desk.run("status job").stdout).unwrap();
    assert!(said.contains("deepest-1/healed: ") && said.contains(", 1 failed"), "{said}");

    let mut child = start(&desk, &format!("run recipe.toml -o job {set} --set heal.steps=100000"));
    let running = until(&desk, "deepest-1/healed", "running");
    assert!(child.try_wait().unwrap().is_none() && running["heard"].is_u64());
    assert!(running["pid"] == json!(child.id()) && running["host"].is_string() && running["since"].is_u64());
    signal(&child, "-USR1");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let left = of("deepest-1/healed");
    assert!(left["state"] == "waiting" && left["seconds"].is_number(), "{left}");
    let hidden = fs::read_dir(desk.path("job")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(hidden.filter(|name| name.starts_with('.')).collect::<Vec<_>>(), [".prune"]);
}

/// Before it is known which cuts there are, a process that waits for nobody waits all the same.
#[test]
fn nobody_leaves_before_the_analysis_is_done() {
    let desk = desk();
    // long enough to be stopped in the middle
    let text = fs::read_to_string(desk.path("text.jsonl")).unwrap();
    fs::write(desk.path("long.jsonl"), text.repeat(2000)).unwrap();
    let line = "run recipe.toml -o job --no-wait --set analyze.data=\"long.jsonl\" --set analyze.samples=24000";
    let one = start(&desk, &format!("{line} --shard 1/2"));
    until(&desk, "analysis", "running");
    // not while it writes down what it is at: that would hold up the other one for as long as a claim holds
    std::thread::sleep(Duration::from_millis(300));
    signal(&one, "-STOP");
    let mut other = start(&desk, &format!("{line} --shard 2/2"));
    until(&desk, "dense/scores", "done");
    std::thread::sleep(Duration::from_millis(500));
    assert!(other.try_wait().unwrap().is_none(), "{}", end(other));
    signal(&one, "-CONT");
    let times = done([&end(one), &end(other)]);
    assert!(times.values().all(|times| *times == 1) && times.contains_key("deepest-2/healed-scores"), "{times:?}");
}

/// A job that is warned saves its state and asks for itself to be started again: for its own task, whose number may be
/// that of the array. One that is cancelled saves it and stays cancelled.
#[test]
fn a_warned_job_goes_back_into_the_queue() {
    let desk = desk();
    let path = stand_ins(&desk, "[ \"$1\" = --version ] || echo 41\n");
    let submitted = desk
        .command("run recipe.toml -o job --submit slurm --set drop.methods=[\"deepest\"] --set heal.steps=100000")
        .env("PATH", &path)
        .output()
        .unwrap();
    assert!(submitted.status.success(), "{}", String::from_utf8_lossy(&submitted.stderr));
    let task = [("SLURM_ARRAY_JOB_ID", "41"), ("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_COUNT", "4")];
    let first = [("SLURM_ARRAY_TASK_MIN", "1")];
    for (script, own, warning, asked) in [
        ("array.sh", &[&task[..], &first[..]].concat()[..], "-TERM", ""),
        ("array.sh", &[&task[..], &first[..]].concat()[..], "-USR1", "requeue 41_2\n"),
        ("report.sh", &[], "-USR1", "requeue 41\n"),
    ] {
        let mut job = Command::new("bash");
        job.arg(desk.path("job.slurm").join(script)).env("SLURM_JOB_ID", "41").envs(own.iter().copied());
        job.env("PATH", &path).env("HERE", desk.path("")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut job = job.spawn().unwrap();
        until(&desk, "deepest-1/healed", "running");
        signal(&job, warning);
        assert_eq!(job.wait().unwrap().code(), Some(130), "{script} {warning}");
        assert_eq!(fs::read_to_string(desk.path("asked")).unwrap_or_default(), asked, "{script} {warning}");
        drop(fs::remove_file(desk.path("asked")));
        until(&desk, "deepest-1/healed", "waiting");
    }
}

/// Stand-ins for what Slurm has: `sbatch`, which does this, and `scontrol`, which notes what it is asked; the PATH with
/// them.
fn stand_ins(desk: &Desk, sbatch: &str) -> String {
    let bin = desk.path("bin");
    fs::create_dir(&bin).unwrap();
    for (name, does) in [("sbatch", sbatch), ("scontrol", "echo \"$@\" >> $HERE/asked\n")] {
        fs::write(bin.join(name), format!("#!/bin/bash\n{does}")).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(bin.join(name)).status().unwrap().success());
    }
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

/// What goes to Slurm, by a stand-in that does what it is told: the array, and after it the report.
#[test]
fn a_cluster_is_handed_the_run() {
    let desk = desk();
    let ask = "run recipe.toml -o job --submit slurm --jobs 2 --partition gpu --sbatch=--account=physics";
    fs::create_dir(desk.path("none")).unwrap();
    let without = desk.command(ask).env("PATH", desk.path("none")).output().unwrap();
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(without.status.code() == Some(2) && said.contains("no sbatch"), "{said}");
    let dry = desk.json(&format!("{ask} --dry-run --json"));
    assert_eq!(dry["submission"]["scripts"].as_array().unwrap().len(), 2);
    assert!(!desk.path("job").exists() && !desk.path("job.slurm").exists());

    // runs the tasks of an array one after the other, and numbers jobs 41, 42
    let path = stand_ins(
        &desk,
        "[ \"$1\" = --version ] && exit 0\necho \"$@\" >> $HERE/asked\nn=$(wc -l < $HERE/asked)\n\
         script=${@: -1}\nlast=$(sed -n 's/^#SBATCH --array=1-//p' $script)\n\
         for i in $(seq ${last:-1}); do\n  if [ -n \"$last\" ]; then\n    export SLURM_ARRAY_TASK_ID=$i \
         SLURM_ARRAY_TASK_COUNT=$last SLURM_ARRAY_TASK_MIN=1\n  fi\n  bash $script >> $HERE/log 2>&1 || exit 1\n\
         done\necho $((40 + n)) ; exit 0\n",
    );
    let output = desk.command(&format!("{ask} --json")).env("PATH", path).env("HERE", desk.path("")).output().unwrap();
    let log = fs::read_to_string(desk.path("log")).unwrap_or_default();
    assert!(output.status.success(), "{}{log}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["submission"]["jobs"], json!(["41", "42"]));
    let asked = fs::read_to_string(desk.path("asked")).unwrap();
    let asked: Vec<&str> = asked.lines().collect();
    assert!(asked[0].starts_with("--parsable /") && asked[0].ends_with("/job.slurm/array.sh"), "{asked:?}");
    assert!(asked[1].starts_with("--parsable --dependency=afterany:41 "), "{asked:?}");
    assert!(desk.path("job/report.html").exists(), "{log}");
    assert!(status(&desk, "job").iter().all(|stage| stage["state"] == "done"));
}
