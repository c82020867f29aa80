//! What a file says takes no more memory than the cap and 64 MiB beside it, whatever it says; and Ctrl-C ends every
//! long read.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod files;
#[path = "../fixture/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fixture;
mod interrupted;
mod mixtures;
mod tokenizers;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fixture::desk::Desk;

/// The cap of these runs in MiB: little more than the least there is.
const CAP: u64 = 80;

/// How a run ended.
struct End {
    code: Option<i32>,
    said: String,
    /// Largest resident memory, MiB.
    peak: u64,
    seconds: f64,
}

/// Waits for a run. Its peak is asked of itself while it runs: what the system counts at its end begins with the memory
/// of the process that started it, and so does what it shows before it has the program's name.
fn end(mut child: Child, started: Instant) -> End {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let own = if text.starts_with("Name:\tprune\n") { text.as_str() } else { "" };
        let line = own.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(now.unwrap_or(0) >> 10);
        match child.try_wait().unwrap() {
            Some(status) => break status.code(),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(peak > 0 || seconds < 0.1, "the peak is not known");
    End { code, said, peak, seconds }
}

fn run(desk: &Desk, line: &str) -> End {
    let started = Instant::now();
    let mut command = desk.command(&format!("{line} --threads 1 --quiet"));
    end(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap(), started)
}

/// A run ends well, or as `expected` says with one short line, within its cap and its time.
fn check(desk: &Desk, line: &str, expected: Result<(), &str>) {
    let End { code, said, peak, seconds } = run(desk, line);
    match expected {
        Ok(()) => assert_eq!(code, Some(0), "{line}: {said}"),
        Err(word) => {
            assert!(matches!(code, Some(1 | 2)), "{line}: {code:?} {said}");
            assert!(said.lines().count() == 1 && said.len() < 700 && said.contains(word), "{line}: {said}");
        }
    }
    assert!(peak <= CAP + 64, "{line}: {peak} MiB");
    assert!(seconds < 60.0, "{line}: {seconds} s");
}

/// Every file as text to measure and as text to score.
fn check_data(desk: &Desk, name: &str, analyzed: Result<(), &str>, scored: Result<(), &str>) {
    let cap = format!("--memory {CAP}MiB");
    check(desk, &format!("analyze model --data {name} --samples 2 --seq-len 8 {cap}"), analyzed);
    check(desk, &format!("eval model --tasks text:{name} --limit 2 --dry-run {cap}"), scored);
}

#[test]
fn text_is_in_the_cap() {
    let desk = Desk::new();
    let at = |name: &str| desk.path(name);
    let long = "a name or a field that is wanted is too long";
    let values = "more than 100000 values";
    files::gzip(&at("unwanted.jsonl.gz"), &[b"{\"x\":\"", b"a", b"\",\"text\":\"w3 w4 w5\"}\n"]);
    check_data(&desk, "unwanted.jsonl.gz", Ok(()), Err(long));
    files::gzip(&at("numbers.jsonl.gz"), &[b"{\"x\":[0", b",0", b"],\"text\":\"w3 w4 w5\"}\n"]);
    check_data(&desk, "numbers.jsonl.gz", Ok(()), Err(values));
    files::gzip(&at("objects.json.gz"), &[b"[{\"x\":[0", b",{}", b"],\"text\":\"w3 w4 w5\"},{\"text\":\"w3 w4\"}]"]);
    check_data(&desk, "objects.json.gz", Ok(()), Err(values));
    files::gzip(&at("list.jsonl.gz"), &[b"{\"text\":[0", b",0", b"]}\n"]);
    check_data(&desk, "list.jsonl.gz", Err(long), Err(values));
    files::gzip(&at("text.jsonl.gz"), &[b"{\"text\":\"", b"a b ", b"\"}\n"]);
    check_data(&desk, "text.jsonl.gz", Err(long), Err(long));
    files::gzip(&at("escaped.jsonl.gz"), &[b"{\"text\":\"", b"\\u0061", b"\"}\n"]);
    check_data(&desk, "escaped.jsonl.gz", Err(long), Err(long));
    files::gzip(&at("name.jsonl.gz"), &[b"{\"", b"a", b"\":1}\n"]);
    check_data(&desk, "name.jsonl.gz", Err(long), Err(long));
    files::gzip(&at("deep.jsonl.gz"), &[b"{\"x\":", b"[", b""]);
    check_data(&desk, "deep.jsonl.gz", Err("too deep in one another"), Err("too deep in one another"));
    files::gzip(&at("blank.json.gz"), &[b"[", b" ", b""]);
    check_data(&desk, "blank.json.gz", Err("not closed"), Err("not closed"));
    let split = "--text-split lines or";
    files::gzip(&at("text.txt.gz"), &[b"", b"a b ", b""]);
    check_data(&desk, "text.txt.gz", Err(split), Err(split));
    fs::write(at("word.txt"), "a".repeat(1 << 20)).unwrap();
    check_data(&desk, "word.txt", Err("are one word"), Err("are one word"));
    let quote = "is a quote never closed?";
    files::gzip(&at("quote.csv.gz"), &[b"text,b\n\"", b"a\n", b""]);
    check_data(&desk, "quote.csv.gz", Err(quote), Err(quote));
    files::gzip(&at("commas.csv.gz"), &[b"text", b",", b""]);
    check_data(&desk, "commas.csv.gz", Err("one row has more than"), Err("one row has more than"));
    files::gzip(&at("returns.tsv.gz"), &[b"text\n", b"\r", b""]);
    check_data(&desk, "returns.tsv.gz", Err("one row has more than"), Err("one row has more than"));
}

#[test]
fn many_short_texts_are_in_the_cap() {
    let desk = Desk::new();
    files::gzip(&desk.path("lines.jsonl.gz"), &[b"", b"{\"text\":\"w3 w4\"}\n", b""]);
    check(&desk, &format!("analyze model --data lines.jsonl.gz --samples 2 --seq-len 8 --memory {CAP}MiB"), Ok(()));
    let eval = |more: &str| format!("eval model --tasks text:lines.jsonl.gz --dry-run --memory {CAP}MiB {more}");
    check(&desk, &eval(""), Err("--limit"));
    check(&desk, &eval("--limit 1000"), Ok(()));
}

#[test]
fn what_unpacks_to_much_is_in_the_cap() {
    let desk = Desk::new();
    let row = b"{\"text\":\"w3 w4 w5\"}\n";
    for name in ["bomb.jsonl.zst", "bomb.jsonl.bz2"] {
        files::pack(&desk.path(name), row, b"\n");
        check_data(&desk, name, Ok(()), Ok(()));
    }
    let memory = "take more than 64 MiB of memory to unpack; unpack the file first";
    for (name, log, expected) in [("window.jsonl.zst", 26, Ok(())), ("wide.jsonl.zst", 27, Err(memory))] {
        files::zstd_of_window(&desk.path(name), row, log);
        check_data(&desk, name, expected, expected);
    }
    for (name, bits, expected) in [("window.jsonl.xz", 28, Ok(())), ("wide.jsonl.xz", 37, Err(memory))] {
        fs::write(desk.path(name), files::xz_of_dictionary(row, bits)).unwrap();
        check_data(&desk, name, expected, expected);
    }
}

#[test]
fn pages_of_parquet_are_in_the_cap() {
    let desk = Desk::new();
    let text = |mib: usize| "w3 w4 w5 ".repeat((mib << 20) / 9);
    files::parquet(&desk.path("rows.parquet"), (0..64).map(|_| text(1)), false);
    // the ids of such texts as requests are more than there is room for, which is said
    let room = "give more with --memory";
    check_data(&desk, "rows.parquet", Ok(()), Err(room));
    // a page that says twenty times what it takes in the file
    files::parquet(&desk.path("page.parquet"), std::iter::once(text(20)), false);
    check_data(
        &desk,
        "page.parquet",
        Err("write the file with smaller pages"),
        Err("write the file with smaller pages"),
    );
    files::parquet(&desk.path("dictionary.parquet"), (0..64).map(|_| text(1)), true);
    check_data(&desk, "dictionary.parquet", Ok(()), Err(room));
    files::parquet(&desk.path("empty.parquet"), (0..1_000_000).map(|_| String::new()), true);
    check_data(&desk, "empty.parquet", Err("too little text"), Ok(()));
    check(&desk, &format!("eval model --tasks text:empty.parquet --dry-run --memory {CAP}MiB"), Err("--limit"));
}

/// What is said of something, and what puts it in its place.
type Put<'a> = (&'static str, Box<dyn Fn() + 'a>);

/// A file that is longer than any of its kind, a device, and a pipe that nobody writes to.
fn in_the_place_of(path: &Path) -> [Put<'_>; 3] {
    let clear = move || drop(fs::remove_file(path));
    [
        (
            "longer than ",
            Box::new(move || {
                clear();
                fs::File::create(path).unwrap().set_len(1 << 30).unwrap();
            }),
        ),
        (
            "is a device, expected a file",
            Box::new(move || {
                clear();
                std::os::unix::fs::symlink("/dev/zero", path).unwrap();
            }),
        ),
        (
            "is a pipe, expected a file",
            Box::new(move || {
                clear();
                assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
            }),
        ),
    ]
}

/// Weights in one file, put aside while an index is to be read: beside them nobody asks for it.
struct Aside([std::path::PathBuf; 2]);

impl Aside {
    fn of(desk: &Desk, name: &str) -> Option<Self> {
        let places = ["model/model.safetensors", "weights"].map(|place| desk.path(place));
        name.ends_with("index.json").then(|| {
            fs::rename(&places[0], &places[1]).unwrap();
            Self(places)
        })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        fs::rename(&self.0[1], &self.0[0]).unwrap();
    }
}

#[test]
fn no_file_is_endless() {
    let desk = Desk::new();
    let analyze = format!("analyze model --data text.jsonl --samples 2 --seq-len 8 --memory {CAP}MiB");
    let places = [
        ("model/config.json", analyze.clone()),
        ("model/tokenizer.json", analyze.clone()),
        ("model/tokenizer_config.json", analyze.clone()),
        ("model/model.safetensors.index.json", analyze.clone()),
        ("recipe.toml", "run recipe.toml -o out --dry-run".to_owned()),
        ("settings.toml", format!("{analyze} --config settings.toml")),
        ("plan.json", "cut model --plan plan.json -o out".to_owned()),
        ("adapter_config.json", "merge model --adapter . -o out".to_owned()),
    ];
    for (name, line) in places {
        let path = desk.path(name);
        let kept = fs::read(&path).ok();
        let _aside = Aside::of(&desk, name);
        for (expected, put) in in_the_place_of(&path) {
            put();
            check(&desk, &line, Err(expected));
            assert!(!desk.path("out").exists());
        }
        fs::remove_file(&path).unwrap();
        if let Some(kept) = kept {
            fs::write(&path, kept).unwrap();
        }
    }
    let weights = desk.path("model/model.safetensors");
    let kept = fs::read(&weights).unwrap();
    for ((_, put), expected) in in_the_place_of(&weights).iter().zip(["safetensors", "is a device", "is a pipe"]) {
        put();
        check(&desk, &analyze, Err(expected));
    }
    fs::remove_file(&weights).unwrap();
    fs::write(&weights, kept).unwrap();
    let data = desk.path("data.jsonl");
    for ((_, put), expected) in in_the_place_of(&data).iter().zip(["column 1", "is a device", "is a pipe"]) {
        put();
        check(&desk, &analyze.replace("text.jsonl", "data.jsonl"), Err(expected));
    }
    for device in ["/dev/zero", "/dev/urandom"] {
        check(&desk, &analyze.replace("analyze model", &format!("analyze {device}")), Err(device));
        check(&desk, &analyze.replace("text.jsonl", device), Err(device));
    }
}

#[test]
fn values_are_counted_in_every_file() {
    let desk = Desk::new();
    let analyze = format!("analyze model --data text.jsonl --samples 2 --seq-len 8 --memory {CAP}MiB");
    for (name, values, line) in [
        ("model/config.json", 1_000_000, analyze.as_str()),
        ("model/tokenizer.json", 4_000_000, &analyze),
        ("model/tokenizer_config.json", 2_000_000, &analyze),
        ("model/model.safetensors.index.json", 3_000_000, &analyze),
        ("plan.json", 4_000_000, "cut model --plan plan.json -o out"),
    ] {
        let path = desk.path(name);
        let kept = fs::read(&path).ok();
        let _aside = Aside::of(&desk, name);
        fs::write(&path, format!("{{\"x\":[0{}]}}", ",0".repeat(values))).unwrap();
        check(&desk, line, Err("more than such a file has"));
        fs::remove_file(&path).unwrap();
        if let Some(kept) = kept {
            fs::write(&path, kept).unwrap();
        }
    }
    fs::write(desk.path("recipe.toml"), format!("x = [0{}]\n", ",0".repeat(1 << 20))).unwrap();
    check(&desk, "run recipe.toml -o out --dry-run", Err("longer than 1 MiB"));
}

/// A million names are no work for hours.
#[test]
fn many_names_are_no_quadratic_work() {
    let desk = Desk::new();
    let names = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let columns = names(900_000, &|column| format!("c{column}"));
    fs::write(desk.path("wide.csv"), format!("{columns},text\n{}w3 w4 w5\n", "x,".repeat(900_000))).unwrap();
    fs::write(desk.path("lacking.csv"), format!("{columns}\n{}x\n", "x,".repeat(899_999))).unwrap();
    // by hand: a cap that holds so many names
    let analyze = |name: &str| run(&desk, &format!("analyze model --data {name} --samples 2 --seq-len 8"));
    for (name, code) in [("wide.csv", 0), ("lacking.csv", 2)] {
        let end = analyze(name);
        assert!(end.code == Some(code) && end.said.len() < 1500, "{name}: {:?} {}", end.code, end.said);
        assert!(end.seconds < 20.0, "{name}: {} s", end.seconds);
    }
    let fields = names(400_000, &|field| format!("\"f{field}\":0"));
    fs::write(desk.path("wide.jsonl"), format!("{{{fields},\"text\":\"w3 w4 w5\"}}\n")).unwrap();
    assert_eq!(analyze("wide.jsonl").code, Some(0));
    files::more_tensors(&desk.path("model/model.safetensors"), 100_000);
    let end = analyze("text.jsonl");
    assert!(end.code == Some(0) && end.said.len() < 4000 && end.seconds < 20.0, "{} s: {}", end.seconds, end.said);
    let map = names(300_000, &|tensor| format!("\"t{tensor}\":\"s{tensor}.safetensors\""));
    fs::write(desk.path("model/model.safetensors.index.json"), format!("{{\"weight_map\":{{{map}}}}}")).unwrap();
    let end = analyze("text.jsonl");
    assert!(end.code.is_some_and(|code| code < 3) && end.said.len() < 4000 && end.seconds < 20.0, "{}", end.said);
}

/// Time for the runs that are interrupted to get where they stay for minutes.
const UNDER_WAY: Duration = Duration::from_millis(700);
