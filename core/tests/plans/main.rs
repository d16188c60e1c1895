//! Text-driven cases of the planner: `cases/*.txt`, each a series of states and the plans that they lead to.
//!
//! A block is some lines that change the state, `----`, and what the planner says, up to an empty line. The state goes on from block
//! to block; `scene.rs` says what lines there are. Every plan goes through the checker too.
//! `UPDATE_PLANS=1 cargo test -p kv-core --test plans` writes what the planner says now; review the difference.

// A case or a world that is not as it should be ends the test, wherever that is found.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod scene;
mod show;

use std::fmt::Write as _;
use std::path::Path;

use scene::Scene;

/// Runs the blocks of a file, and returns the file as it should be.
fn run(text: &str) -> String {
    let mut scene = Scene::default();
    let mut result = String::new();
    let mut input = String::new();
    let mut in_output = false;
    for line in text.lines().chain([""]) {
        match (in_output, line) {
            (true, "") => in_output = false,
            (true, _) => {}
            (false, "----") => {
                let output = scene.run(&input);
                writeln!(result, "{}\n----\n{}\n", input.trim(), output.trim_end()).expect("a text");
                input.clear();
                in_output = true;
            }
            (false, _) => {
                input.push_str(line);
                input.push('\n');
            }
        }
    }
    result.push_str(input.trim());
    format!("{}\n", result.trim_end())
}

#[test]
fn plans_are_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans/cases");
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).expect("cases").map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    let mut different = Vec::new();
    for path in &paths {
        let written = std::fs::read_to_string(path).expect("a case");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        println!("case {name}");
        let now = run(&written);
        if written != now && std::env::var_os("UPDATE_PLANS").is_some() {
            std::fs::write(path, now).expect("the case is written");
        } else if written != now {
            different.push(format!("== {name}: the planner says now\n{now}"));
        }
    }
    assert!(!paths.is_empty());
    assert!(different.is_empty(), "{}", different.join("\n"));
}
