//! Programs that pass, that do not, and that are not to be left alone.

use super::*;
use crate::progress::Silent;

/// A runner with little patience; nothing where there is no Python.
fn runner() -> Option<CodeRunner> {
    let runner = CodeRunner::open(None, &Silent).ok()?;
    Some(CodeRunner { seconds: 2.0, ..runner })
}

#[test]
fn programs_pass_by_their_tests_alone() {
    let Some(runner) = runner() else { return };
    let cases = [
        ("def add(a, b): return a + b\nassert add(2, 3) == 5", true),
        ("def add(a, b): return a * b\nassert add(2, 3) == 5", false),
        ("print('passed apart'); raise ValueError", false),
        ("import sys\nsys.exit(0)", false),
        ("import os\nos._exit(0)", false),
        ("def f(:\n", false),
        ("while True: pass", false),
        ("while True:\n    try:\n        pass\n    except BaseException:\n        pass", false),
        ("import time\ntime.sleep(30)", false),
        ("x = bytearray(8 << 30)", false),
        ("x = bytearray(8 << 20)", true),
        ("open('mine', 'w').write('x' * 100)\nassert open('mine').read() == 'x' * 100", true),
        ("import os\nassert os.listdir('.') == []", true),
        ("open('large', 'w').write('x' * (64 << 20))", false),
        ("import subprocess\nsubprocess.run(['true'])", false),
        ("import os\nos.remove('mine')", false),
        ("input()", false),
        ("assert 'é\\u2028' == 'é\\u2028' and __name__ == 'builtins'", true),
    ];
    let programs: Vec<String> = cases.iter().map(|(program, _)| (*program).to_owned()).collect();
    let expected: Vec<bool> = cases.iter().map(|(_, passes)| *passes).collect();
    let found = runner.passes(&programs, &Silent).unwrap();
    for ((program, found), expected) in programs.iter().zip(found).zip(expected) {
        assert_eq!(found, expected, "{program}");
    }
}

#[test]
fn no_network_where_the_system_says_so() {
    let Some(runner) = runner() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let reaches = format!("import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)");
    let ran = runner.run(&reaches).unwrap();
    assert_eq!(ran.passed, !ran.apart, "{ran:?}");
}

/// What a program started ends with it.
#[test]
fn nothing_of_a_program_is_left() {
    let Some(runner) = runner() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sign = dir.path().join("alive");
    let program = format!(
        "import posix, time\nif posix.fork() == 0:\n    time.sleep(3)\n    open({:?}, 'w').close()\nraise ValueError",
        sign.display().to_string()
    );
    assert!(!runner.run(&program).unwrap().passed);
    std::thread::sleep(Duration::from_secs(4));
    assert!(!sign.exists());
}

#[test]
fn a_python_that_is_none_is_refused() {
    for name in ["no-such-python", "true"] {
        let error = CodeRunner::open(Some(Path::new(name)), &Silent).unwrap_err();
        assert!(error.to_string().contains(name) && error.exit_code() == 2, "{error}");
        assert!(error.to_string().contains("--python"), "{error}");
    }
}

#[test]
fn an_interruption_ends_them() {
    let Some(runner) = runner() else { return };
    let interrupt = interrupt::Interrupt::new();
    let began = Instant::now();
    let programs = vec!["import time\ntime.sleep(60)".to_owned(); 40];
    struct Impatient(interrupt::Interrupt);
    impl Progress for Impatient {
        fn begin(&self, _: &str, _: u64, _: Unit) {
            let own = self.0.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                own.request();
            });
        }
        fn advance(&self, _: u64) {}
        fn end(&self) {}
        fn warn(&self, _: &str) {}
    }
    let patient = CodeRunner { seconds: 30.0, ..runner };
    let watch = Impatient(interrupt.clone());
    let found = interrupt.run(|| patient.passes(&programs, &watch));
    assert!(matches!(found, Err(Error::Interrupted)), "{found:?}");
    assert!(began.elapsed() < Duration::from_secs(15));
}

/// Expected values are of `estimate_pass_at_k` of `code_eval`.
#[test]
fn the_unbiased_estimator() {
    for (samples, passed, k, expected) in [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (10, 3, 1, 0.3),
        (10, 3, 5, 0.916_666_666_666_666_6),
        (10, 6, 5, 1.0),
        (64, 1, 8, 0.125),
        (64, 0, 64, 0.0),
    ] {
        let found = pass_at_k(samples, passed, k);
        assert!((found - expected).abs() < 1e-12, "{samples} {passed} {k}: {found}");
    }
}
