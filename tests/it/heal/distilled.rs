//! Learning from a teacher by its streams, and by what the model writes itself.

use std::fs;
use std::process::Stdio;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use prune::checkpoint::Checkpoint;
use prune::heal::{DivergenceKind, Gradients, HealSettings, Quant, StreamPair, Trainer, parameters};
use prune::model::{CheckpointingPolicy, Model, ModelOptions};
use prune::ops;
use prune::progress::Silent;
use serde_json::{Value, json};

use super::model::{open, shake};
use super::shared::difference;
use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};

/// A model of three layers in training, and a teacher of four as wide.
fn pair(settings: &HealSettings) -> (Model, Model, [tempfile::TempDir; 2]) {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    Llama { layers: 3, ..Llama::default() }.write(dirs[0].path());
    Llama { layers: 4, seed: 5, ..Llama::default() }.write(dirs[1].path());
    let model = open(dirs[0].path(), settings);
    shake(&parameters(&model).unwrap(), 1);
    let checkpoint = Arc::new(Checkpoint::open_dir(dirs[1].path()).unwrap());
    (model, Model::open(checkpoint, &ModelOptions::default(), &Silent).unwrap(), dirs)
}

fn rows() -> Vec<Vec<u32>> {
    vec![(0..23).map(|i| i * 7 % 61).collect(), (0..14).map(|i| (i * i + 3) % 61).collect(), vec![5, 9]]
}

fn settings() -> HealSettings {
    HealSettings {
        quant: Quant::None,
        dropout: 0.0,
        rank: 3.into(),
        alpha: Some(5.0),
        target: "all-linear".parse().unwrap(),
        teacher: Some("m".to_owned()),
        teacher_weight: 0.3,
        divergence: DivergenceKind::Jsd,
        hidden_weight: Some(0.7),
        ..HealSettings::default()
    }
}

const PAIRS: [StreamPair; 2] = [StreamPair { model: 2, teacher: 3 }, StreamPair { model: 3, teacher: 4 }];

fn trainer<'a>(
    model: &'a Model,
    teacher: &'a Model,
    settings: &HealSettings,
    pairs: &[StreamPair],
    keep: usize,
) -> Trainer<'a> {
    let policy = CheckpointingPolicy::on(&Device::Cpu, keep);
    Trainer::new(model, Some(teacher), settings, policy).unwrap().held_to(pairs.to_vec())
}

/// A step along the gradient of each tensor changes the loss as the gradient says, with hidden states at two depths
/// and sequences that the model wrote itself.
#[test]
fn gradients_are_those_of_finite_differences() {
    let settings = settings();
    let (model, teacher, _dirs) = pair(&settings);
    let (rows, written) = (rows(), vec![vec![7, 1, 30, 22, 4], vec![2, 2, 9]]);
    let trainer = trainer(&model, &teacher, &settings, &PAIRS, 1);
    let of = || trainer.gradients_with(&rows, &written).unwrap();
    let loss = || {
        let (sums, _, targets) = of();
        sums.loss / targets as f64
    };
    let (sums, found, targets) = of();
    assert!(targets == 36 + 6 && sums.hidden > 0.0);
    for (name, parameter) in parameters(&model).unwrap() {
        let gradient: Vec<f32> = found[&name].flatten_all().unwrap().to_vec1().unwrap();
        let norm = gradient.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        assert!(norm > 1e-6, "the gradient of {name} is {norm}");
        let step = 0.002 * (1.0 / norm.max(0.05)).min(5.0);
        let before: Vec<f32> = parameter.flatten_all().unwrap().to_vec1().unwrap();
        let at = |sign: f64| {
            let scale = (sign * step / norm) as f32;
            ops::edit(&parameter, |numbers| {
                for ((x, before), g) in numbers.iter_mut().zip(&before).zip(&gradient) {
                    *x = before + scale * g;
                }
            })
            .unwrap();
            loss()
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
        at(0.0);
        assert!((slope - norm).abs() < 0.02 * norm + 2e-5, "{name}: {slope} {norm}");
    }
}

fn same(a: &Gradients, b: &Gradients, tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().all(|(name, gradient)| difference(gradient, &b[name]) <= tolerance)
}

/// The difference is the mean over all tokens and channels, summed over the depths; a weight of zero changes no bit;
/// what is kept of layers, and how sequences share passes, changes nothing.
#[test]
fn hidden_states_by_their_definition() {
    let settings = settings();
    let (model, teacher, _dirs) = pair(&settings);
    let gradients = |settings: &HealSettings, pairs: &[StreamPair], keep| {
        trainer(&model, &teacher, settings, pairs, keep).gradients(&rows()).unwrap()
    };
    let (sums, found, targets) = gradients(&settings, &PAIRS, 3);
    let streams = |model: &Model| -> Vec<Vec<Tensor>> {
        let depths = |row: Vec<u32>| {
            let mut seen = Seen(Vec::new());
            model.run(&prune::model::Batch::pack(&[row], 99).unwrap(), &mut seen, "", &Silent).unwrap();
            seen.0
        };
        rows().into_iter().map(depths).collect()
    };
    let (own, theirs) = (streams(&model), streams(&teacher));
    let mut expected = 0.0;
    for (own, theirs) in own.iter().zip(&theirs) {
        for StreamPair { model, teacher } in PAIRS {
            let off: Vec<f32> = (&own[model] - &theirs[teacher]).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            expected += off.iter().map(|x| f64::from(x * x)).sum::<f64>();
        }
    }
    let width = own[0][0].dim(1).unwrap();
    let (hidden, expected) = (sums.hidden / targets as f64, expected / (39 * width) as f64);
    assert!((hidden - expected).abs() < 1e-5 * expected, "{hidden} {expected}");
    let (plain, without, _) = gradients(&settings, &[], 3);
    assert!((sums.loss - plain.loss - 0.7 * sums.hidden).abs() < 1e-9 * sums.loss, "{sums:?} {plain:?}");
    assert!(!same(&found, &without, 1e-4));
    let nothing = HealSettings { hidden_weight: Some(0.0), ..settings.clone() };
    let (zero, unmoved, _) = gradients(&nothing, &PAIRS, 3);
    assert!(zero.loss == plain.loss && zero.hidden == sums.hidden && same(&unmoved, &without, 0.0));
    for keep in [0, 2] {
        let (other, kept, _) = gradients(&settings, &PAIRS, keep);
        assert!(other.loss == sums.loss && same(&found, &kept, 0.0), "keep {keep}");
    }
    let apart = HealSettings { pass_tokens: 1, ..settings };
    let (other, parts, _) = gradients(&apart, &PAIRS, 0);
    assert!((other.loss - sums.loss).abs() < 1e-4 * sums.loss && same(&found, &parts, 1e-5), "{other:?} {sums:?}");
}

struct Seen(Vec<Tensor>);

impl prune::model::Observer for Seen {
    fn residual(&mut self, _batch: usize, _place: usize, x: &Tensor) -> prune::Result<()> {
        self.0.push(x.clone());
        Ok(())
    }
}

/// Of what the model wrote itself the divergence alone is learned, whatever the weight of the teacher on the text.
#[test]
fn what_it_wrote_is_learned_by_the_divergence_alone() {
    let settings = settings();
    let (model, teacher, _dirs) = pair(&settings);
    let alone = HealSettings { teacher_weight: 1.0, ..settings.clone() };
    let (text, written) = (&rows()[..1], &rows()[1..]);
    let of = |settings: &HealSettings, text: &[Vec<u32>], written: &[Vec<u32>]| {
        trainer(&model, &teacher, settings, &[], 0).gradients_with(text, written).unwrap()
    };
    let (by_weight, expected, _) = of(&alone, written, &[]);
    let (found, gradients, targets) = of(&settings, &[], written);
    assert!(found.loss == by_weight.loss && same(&gradients, &expected, 0.0) && targets == 14);
    // the cross-entropy is that of the text
    let (of_text, _, own) = of(&settings, text, &[]);
    let (both, _, all) = of(&settings, text, written);
    assert!((both.loss - of_text.loss - found.loss).abs() < 1e-6 * both.loss && all == own + targets);
    assert_eq!((both.cross_entropy, found.cross_entropy), (of_text.cross_entropy, 0.0));
    let mut trainer = trainer(&model, &teacher, &settings, &PAIRS, 0);
    let report = trainer.step_with(&[], written).unwrap();
    assert!(report.cross_entropy.is_none() && report.hidden.is_some() && report.tokens == 16);
}

/// A teacher with a vocabulary of 300, a student without its middle, and texts.
fn desk() -> Desk {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("model")).unwrap();
    Llama { hidden: 32, mlp: 64, heads: 4, kv_heads: 2, head_dim: 8, vocab: 300, ..Llama::default() }
        .write(&desk.path("model"));
    let lines = (0..40).map(|line| {
        let words: Vec<String> =
            (0..12 + line % 9).map(|word| format!("w{}", 3 + (word * 31 + line * 7) % 290)).collect();
        json!({"text": words.join(" ")}).to_string() + "\n"
    });
    fs::write(desk.path("text.jsonl"), lines.collect::<String>()).unwrap();
    let done = desk.run("cut model --drop 1,2 -o half --quiet");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    desk
}

const HEAL: &str = "heal half --data text.jsonl --teacher model --seq-len 24 --steps 12 --batch 4 --rank 3 --warmup 0 \
                    --lr 0.01 --dropout 0 --quant none --target all-linear --shuffle-window 5";

fn works(desk: &Desk, line: &str) {
    let done = desk.run(line);
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

fn log(desk: &Desk, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(desk.path(out).join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn adapter(desk: &Desk, out: &str) -> Vec<u8> {
    fs::read(desk.path(out).join("adapter/adapter_model.safetensors")).unwrap()
}

#[test]
fn the_seam_comes_closer_to_the_teacher() {
    let desk = desk();
    works(&desk, &format!("{HEAL} -o plain --quiet"));
    let mut held = Vec::new();
    for at in ["seam", "1"] {
        works(&desk, &format!("{HEAL} --hidden-states {at} --hidden-weight 0 -o idle --force --quiet"));
        assert!(adapter(&desk, "idle") == adapter(&desk, "plain"), "{at}");
        works(&desk, &format!("{HEAL} --hidden-states {at} --hidden-weight 50 -o held --force --quiet"));
        let hidden = |out: &str| log(&desk, out)[11]["hidden"].as_f64().unwrap();
        assert!(hidden("held") < 0.98 * hidden("idle"), "{at}: {} {}", hidden("held"), hidden("idle"));
        held.push(adapter(&desk, "held"));
    }
    // the seam is behind layer 0, which is what enters layer 1
    assert!(held[0] == held[1]);
    assert!(log(&desk, "plain")[0].get("hidden").is_none());
    let settings = &read(&desk.path("held/heal.json"))["settings"];
    assert_eq!((&settings["hidden_states"], &settings["hidden_weight"]), (&json!([1]), &json!(50.0)));
    let memory = |words: &str| {
        let report = desk.json(&format!("{HEAL} {words} --dry-run --json"));
        report["estimate"]["memory"].as_u64().unwrap()
    };
    // the teacher's streams of a step, the differences of a pass
    assert_eq!(memory("--hidden-states 1,2") - memory(""), 2 * 4 * 32 * (96 + 96));
}

#[test]
fn what_it_writes_itself_brings_it_closer_too() {
    let desk = desk();
    let line = format!("{HEAL} --divergence jsd --prompt-tokens 4 --rollout-tokens 6..20 --adapter-only --quiet");
    works(&desk, &format!("{} --on-policy 1 -o own", line.replace("--steps 12", "--steps 40")));
    let lines = log(&desk, "own");
    let mean = |lines: &[Value]| lines.iter().map(|line| line["loss"].as_f64().unwrap()).sum::<f64>() / 5.0;
    assert!(mean(&lines[35..]) < 0.8 * mean(&lines[..5]), "{} {}", mean(&lines[..5]), mean(&lines[35..]));
    let rollouts = |line: &Value, key: &str| line["rollouts"][key].as_u64().unwrap();
    assert!(lines[0].get("cross_entropy").is_none() && rollouts(&lines[0], "texts") == 4);
    // texts of nothing but noise are cut off, and so grow
    assert!(rollouts(&lines[0], "most") == 6 && rollouts(&lines[39], "most") > 12, "{}", lines[39]);
    assert!(lines.iter().all(|line| rollouts(line, "tokens") <= 4 * rollouts(line, "most")));
    works(&desk, &format!("{line} --on-policy 0.5 --seed 1 -o half-own"));
    let texts: u64 = log(&desk, "half-own").iter().map(|line| rollouts(line, "texts")).sum();
    assert_eq!(texts, 24);
    assert!(log(&desk, "half-own")[3]["cross_entropy"].is_number());
}

#[test]
fn killed_it_writes_the_same() {
    let desk = desk();
    let chat: String = (0..30)
        .map(|n| json!({"prompt": format!("w{} w4 w{}", 9 + n, 50 + n), "completion": "w7 w8"}).to_string() + "\n")
        .collect();
    fs::write(desk.path("chat.jsonl"), chat).unwrap();
    for (index, data) in ["text.jsonl --prompt-tokens 4", "chat.jsonl"].into_iter().enumerate() {
        let line = format!(
            "{} --divergence reverse-kl --on-policy 0.6 --rollout-tokens 4..16 --save-every 1",
            HEAL.replace("text.jsonl", data).replace("--steps 12", "--steps 24")
        );
        let (whole, out) = (format!("whole{index}"), format!("out{index}"));
        works(&desk, &format!("{line} -o {whole} --quiet"));
        let written = |path: &str| fs::read_to_string(desk.path(path)).map_or(0, |text| text.lines().count());
        let mut kills = 0;
        for lines in [1, 6, 11, 17] {
            let mut child = desk
                .command(&format!("{line} -o {out} --quiet"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            while child.try_wait().unwrap().is_none() && written(&format!("{out}.healing/log.jsonl")) < lines {
                std::thread::sleep(std::time::Duration::from_micros(100));
            }
            child.kill().unwrap();
            kills += usize::from(!child.wait().unwrap().success());
        }
        assert!(kills > 1, "{kills}");
        works(&desk, &format!("{line} -o {out} --quiet"));
        assert!(adapter(&desk, &out) == adapter(&desk, &whole), "{data}");
        let rollouts = |out: &str| log(&desk, out).iter().map(|line| line["rollouts"].clone()).collect::<Vec<_>>();
        assert_eq!(rollouts(&out), rollouts(&whole));
    }
}

#[test]
fn what_cannot_teach_so_is_refused_beforehand() {
    let desk = desk();
    works(&desk, "teach model --data text.jsonl --seq-len 24 --steps 12 --batch 4 --shuffle-window 5 -o cache --quiet");
    let cached = HEAL.replace("--teacher model", "--teacher cache");
    for (out, words) in [("strange", "vocab: 64"), ("wide", "hidden: 48")] {
        let model = Llama { vocab: 300, ..Llama::default() };
        match words {
            "vocab: 64" => Llama { vocab: 64, ..model }.write(&desk.path(out)),
            _ => Llama { hidden: 48, ..model }.write(&desk.path(out)),
        }
    }
    let strange = HEAL.replace("--teacher model", "--teacher strange");
    let wide = HEAL.replace("--teacher model", "--teacher wide");
    let trained = format!("{HEAL} --layers-to-transform 1");
    for (line, words) in [
        (format!("{cached} --on-policy 0.5"), &["--teacher: cache: --on-policy", "name the model itself"][..]),
        (format!("{cached} --hidden-states seam"), &["--teacher: cache: --hidden-states", "no streams"]),
        (strange.clone(), &["--teacher: strange: its vocabulary has 64 tokens, the model's 300"]),
        (format!("{strange} --on-policy 0.5"), &["vocabulary has 64"]),
        (format!("{wide} --hidden-states seam"), &["48 wide, the model's 32"]),
        (format!("{HEAL} --hidden-states 9"), &["hidden_states 9", "the model has 2 layers"]),
        (format!("{HEAL} --hidden-states 0"), &["nothing is trained below layer 0"]),
        (format!("{trained} --hidden-states seam"), &["nothing is trained below layer 1"]),
        (format!("{HEAL} --hidden-states first"), &["first"]),
        (format!("{HEAL} --on-policy 0.5 --prompt-tokens 24"), &["24 tokens at most"]),
        (format!("{HEAL} --on-policy 0.5 --rollout-tokens 9..8"), &["9..8", "64..512"]),
        (format!("{HEAL} --on-policy 2"), &["on_policy is 2"]),
        (format!("{HEAL} --divergence jsd --jsd-beta 1"), &["jsd_beta is 1", "reverse-kl"]),
    ] {
        for dry in ["", " --dry-run"] {
            desk.refused(&format!("{line} -o out{dry}"), 2, words);
        }
    }
    // a model whose history is gone, or speaks of another
    fs::remove_file(desk.path("half/prune.json")).unwrap();
    desk.refused(&format!("{HEAL} --hidden-states seam -o out"), 2, &["2 layers, the teacher 4", "prune.json"]);
}
