//! `tracer provoke` as a program: its workload ends when its time is over, however often it is run.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Children were forked while threads of the scenario before were on their way out, with a lock of the standard library
/// held that nobody gave back in the child. One run in ten or so never ended.
#[test]
fn every_run_ends() {
    const RUNS: usize = 30;
    const MOST: Duration = Duration::from_secs(60);
    for run in 1..=RUNS {
        let mut workload = Command::new(env!("CARGO_BIN_EXE_tracer"))
            .args("provoke all --unprivileged --duration 3ms --threads 12".split(' '))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .unwrap();
        let begin = Instant::now();
        let status = loop {
            match workload.try_wait().unwrap() {
                Some(status) => break status,
                None if begin.elapsed() < MOST => thread::sleep(Duration::from_millis(10)),
                None => {
                    // Its children are in its group, and hang along with it.
                    Command::new("kill")
                        .args(["-9", "--", &format!("-{}", workload.id())])
                        .status()
                        .unwrap();
                    workload.wait().unwrap();
                    panic!("run {run} of {RUNS} has not ended after {} s", MOST.as_secs());
                }
            }
        };
        assert!(status.success(), "run {run}: {status}");
    }
}
