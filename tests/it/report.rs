//! The report of a run that was made: the demo's model, cut in two ways to five sizes, healed and scored.

use std::fs;
use std::path::{Path, PathBuf};

use prune::report::run::RunData;
use prune::report::{Figure, figures, page, tables};

fn atlas() -> RunData {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/report/atlas.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Where the report is left to be looked at: `target/tmp/report`, `tests/interop/report_page.py` opens it.
fn place() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    fs::create_dir_all(place.join("figures")).unwrap();
    place
}

#[test]
fn everything_is_there() {
    let (data, place) = (atlas(), place());
    let text = page(&data).unwrap();
    fs::write(place.join("index.html"), &text).unwrap();
    for words in ["1 to 8 of the 16 layers were dropped", "in 10 cuts", "0.806 ± 0.020", "9..=12", "3.22 M"] {
        assert!(text.contains(words), "{words}");
    }
    assert!(text.contains(data.caveat.as_deref().unwrap()));
    for figure in figures(&data) {
        fs::write(place.join(format!("figures/{}.svg", figure.name)), figure.drawing.svg().unwrap()).unwrap();
        fs::write(place.join(format!("figures/{}.png", figure.name)), figure.drawing.png().unwrap()).unwrap();
        assert!(text.contains(&format!(" id=\"{}\"", figure.name)), "{}", figure.name);
    }
    let tables = tables(&data).unwrap();
    for table in &tables {
        fs::write(place.join(format!("{}.csv", table.name)), &table.text).unwrap();
    }
    // every score comes back to the bit
    let mut scores =
        csv::Reader::from_reader(tables.iter().find(|table| table.name == "scores").unwrap().text.as_bytes());
    let head = scores.headers().unwrap().clone();
    let column = |name: &str| head.iter().position(|head| head == name).unwrap();
    let read: Vec<f64> = scores.records().map(|line| line.unwrap()[column("value")].parse().unwrap()).collect();
    let written: Vec<f64> =
        data.all().flat_map(|variant| variant.scores.iter().flatten().map(|score| score.value)).collect();
    assert_eq!(read, written);
}
