//! Processes that a launcher has started: those that cannot work together are refused, before each does it alone in
//! the same place.

use crate::fixture::desk::Desk;

const HEAL: &str = "heal model --data text.jsonl --seq-len 8 --rank 2 --steps 2 --batch 2 -o healed --quiet";
const DRY: &str = "heal model --data text.jsonl --seq-len 8 --rank 2 --steps 2 --batch 2 --dry-run --json";

const ANALYZE: &str = "analyze model --data text.jsonl -o scores --quiet";
const EVAL: &str = "eval model --tasks text:text.jsonl -o scores --quiet";

/// What the environment of the tests themselves may have.
const VARIABLES: [&str; 12] = [
    "RANK",
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_RANK",
    "PMI_SIZE",
    "SLURM_PROCID",
    "SLURM_STEP_ID",
    "SLURM_NTASKS",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_USE_AGENT_STORE",
];

/// As if the tests were started by no launcher.
pub(super) fn outside(command: &mut std::process::Command) -> &mut std::process::Command {
    VARIABLES.iter().fold(command, |command, name| command.env_remove(name))
}

fn refused(desk: &Desk, line: &str, set: &[(&str, &str)], words: &[&str]) {
    let before = desk.names();
    let mut command = desk.command(line);
    let output = outside(&mut command).envs(set.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{set:?}: {said}");
    assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{set:?}: {said}");
    assert!(words.iter().all(|word| said.contains(word)), "{set:?}: {said}");
    assert_eq!(desk.names(), before, "{set:?}");
}

#[test]
fn several_that_cannot_meet_are_refused() {
    let desk = Desk::new();
    let first = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")];
    let second = [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "70000")];
    for line in [HEAL, DRY, EVAL, ANALYZE] {
        refused(&desk, line, &first, &["WORLD_SIZE=2", "MASTER_PORT", "alone"]);
        refused(&desk, line, &second, &["MASTER_PORT=70000", "65535"]);
        let none = [&second[..3], &[("MASTER_PORT", "0")]].concat();
        refused(&desk, line, &none, &["MASTER_PORT=0", "65535"]);
        refused(&desk, line, &[("RANK", "2"), ("WORLD_SIZE", "2")], &["RANK=2", "WORLD_SIZE=2"]);
        refused(&desk, line, &[("WORLD_SIZE", "2")], &["WORLD_SIZE=2", "RANK"]);
        refused(&desk, line, &[("RANK", "0"), ("WORLD_SIZE", "two")], &["WORLD_SIZE=two"]);
        // a build with MPI would look for the others
        if cfg!(not(feature = "mpi")) {
            let open_mpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "4")];
            refused(&desk, line, &open_mpi, &["OMPI_COMM_WORLD_SIZE=4", "MASTER_ADDR", "--features mpi"]);
            refused(&desk, line, &[("PMI_RANK", "1"), ("PMI_SIZE", "2")], &["PMI_SIZE=2", "--features mpi"]);
            let step = [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2")];
            refused(&desk, line, &step, &["srun", "SLURM_NTASKS=2", "--features mpi"]);
        }
    }
}

#[test]
fn one_is_alone() {
    let desk = Desk::new();
    for set in [
        &[("RANK", "0"), ("WORLD_SIZE", "1")][..],
        &[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")],
        &[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")],
        &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")],
        &[("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_COUNT", "4"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")],
    ] {
        let mut command = desk.command(DRY);
        let output = outside(&mut command).envs(set.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{set:?}: {}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report.get("group").is_none(), "{report}");
    }
}

/// Shares that are named are nobody's to divide, and no other command is.
#[test]
fn a_share_of_its_own_needs_no_others() {
    let desk = Desk::new();
    for (rank, line) in [("0", "--shard 1/2 -o a"), ("1", "--shard 2/2 -o b"), ("1", "--merge a b -o c")] {
        let mut command = desk.command(&format!("eval model --tasks text:text.jsonl --pass-tokens 8 --quiet {line}"));
        let output = outside(&mut command).env("RANK", rank).env("WORLD_SIZE", "2").output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut command = desk.command("cut model --drop 1 -o small --quiet");
    let output = outside(&mut command).env("RANK", "1").env("WORLD_SIZE", "2").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
