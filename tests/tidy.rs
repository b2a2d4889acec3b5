//! House rules that neither the compiler nor clippy checks; every offence is listed at once.

use std::fs;
use std::path::{Path, PathBuf};

const MOST_LINES: usize = 600;
const MOST_COLUMNS: usize = 100;

/// Folders that hold text of ours, besides the files of the root itself.
const FOLDERS: [&str; 8] =
    [".cargo", ".ci", ".github", "src", "tests", "benches", "examples", "fuzz"];

/// Folders of output, wherever they stand.
const OUTPUT: [&str; 3] = ["target", "corpus", "artifacts"];

/// Notes to oneself. One letter each is escaped, so that this file does not find itself.
const LEFT_OVER: [&str; 5] =
    ["TO\u{44}O", "FIX\u{4d}E", "X\u{58}X", "to\u{64}o!(", "unimplement\u{65}d!("];

/// A name that only one part of `src/` may use, and what it is to the reader of the offence.
struct Seam {
    names: &'static [&'static str],
    allowed: &'static [&'static str],
    reason: &'static str,
}

const SEAMS: [Seam; 3] = [
    Seam {
        names: &[
            "parking_lot",
            "Mutex",
            "RwLock",
            "Condvar",
            "thread::park",
            "thread::park_timeout",
        ],
        allowed: &["src/sync/"],
        reason: "locks and waits go through sync, or loom does not see them",
    },
    Seam {
        names: &["bincode"],
        allowed: &["src/codec.rs"],
        reason: "the encoding is replaceable only while codec.rs alone knows it",
    },
    Seam {
        names: &["SystemTime::now", "Instant::now"],
        allowed: &["src/clock.rs", "src/bin/"],
        reason: "time is injected; only clock.rs asks the system",
    },
];

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(root, false, &mut files);
    for folder in FOLDERS {
        collect(&root.join(folder), true, &mut files);
    }
    assert!(files.len() > 20, "the walk found {} files only", files.len());
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        // What is not UTF-8 is a seed or an image, not text.
        if let Ok(text) = fs::read_to_string(&file) {
            check(&name, &text, &mut found);
        }
    }
    let changelog = fs::read_to_string(root.join("CHANGELOG.md")).unwrap_or_default();
    check_changelog(&changelog, env!("CARGO_PKG_VERSION"), &mut found);
    assert!(found.is_empty(), "{} offences:\n{}", found.len(), found.join("\n"));
}

/// The files of a folder; a folder that is not there has none, as in a packaged crate.
fn collect(folder: &Path, deep: bool, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry can be read").path();
        let output = OUTPUT.iter().any(|name| path.ends_with(name));
        match path.is_dir() {
            true if deep && !output => collect(&path, deep, files),
            true => {}
            false => files.push(path),
        }
    }
}

fn check(name: &str, text: &str, found: &mut Vec<String>) {
    let rust = name.ends_with(".rs");
    if rust && !text.starts_with("//!") {
        found.push(format!("{name}:1: opens without a `//!` sentence"));
    }
    let lines = text.lines().count();
    if rust && lines > MOST_LINES {
        found.push(format!("{name}: {lines} lines, more than {MOST_LINES}"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        let columns = line.chars().count();
        if rust && columns > MOST_COLUMNS {
            found.push(format!("{name}:{number}: {columns} columns, more than {MOST_COLUMNS}"));
        }
        for word in LEFT_OVER.iter().filter(|word| has_word(line, word)) {
            found.push(format!("{name}:{number}: {word}: do it, or leave it out"));
        }
    }
    if rust && name.starts_with("src/") {
        check_seams(name, text, found);
    }
}

fn check_seams(name: &str, text: &str, found: &mut Vec<String>) {
    // Comments may speak of anything, and the crate's own sync may be used by anybody.
    let mut import = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        if !import.is_empty() || has_word(code, "use") {
            import.push_str(code);
        }
        for Seam { names, allowed, reason } in &SEAMS {
            if allowed.iter().any(|place| name.starts_with(place)) {
                continue;
            }
            for word in names.iter().filter(|word| has_word(code, word)) {
                // `Mutex` is an offence only as the standard library's, by path or by import.
                let common = ["Mutex", "RwLock", "Condvar"].contains(word);
                let path = code.contains(&format!("std::sync::{word}"));
                if !common || path || import.contains("use std") {
                    found.push(format!("{name}:{number}: {word}: {reason}"));
                }
            }
        }
        if code.contains(';') {
            import.clear();
        }
    }
}

/// Whether `word` stands in `line` and is no part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let open_end = !word.ends_with(part_of_word) || !after.starts_with(part_of_word);
        !before.ends_with(part_of_word) && open_end
    })
}

fn check_changelog(text: &str, version: &str, found: &mut Vec<String>) {
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    let newest = headings.map(|line| line.trim_start_matches('[')).find(|line| {
        // A heading for what is not released yet may stand above.
        line.starts_with(|c: char| c.is_ascii_digit())
    });
    let end = |c: char| c == ']' || c.is_whitespace();
    let newest = newest.and_then(|line| line.split(end).next());
    if newest != Some(version) {
        let newest = newest.unwrap_or("missing");
        found.push(format!("CHANGELOG.md: newest version is {newest}, the crate's is {version}"));
    }
}

#[test]
fn every_rule_can_be_broken() {
    let offences = |name: &str, text: &str| {
        let mut found = Vec::new();
        check(name, text, &mut found);
        found.len()
    };
    let src = |code: &str| offences("src/store.rs", &format!("//! A file.\n{code}\n"));
    assert_eq!(offences("src/store.rs", "fn f() {}\n"), 1);
    assert_eq!(src(&"\n".repeat(MOST_LINES)), 1);
    assert_eq!(src(&"é".repeat(MOST_COLUMNS + 1)), 1);
    assert_eq!(src(&"é".repeat(MOST_COLUMNS)), 0);
    for word in LEFT_OVER {
        assert_eq!(src(word), 1, "{word}");
        assert_eq!(offences("README.md", &format!("a ({word}) b")), 1, "{word}");
        assert_eq!(src(&format!("a{word}")), 0, "{word}");
    }
    for code in [
        "use parking_lot::Mutex;",
        "let lock = std::sync::Mutex::new(1);",
        "use std::sync::{Arc, RwLock};",
        "pub(crate) use std::sync::{\n    Arc,\n    Condvar,\n};",
        "std::thread::park();",
        "thread::park_timeout(wait);",
        "bincode::serde::encode_to_vec(1);",
        "let start = Instant::now();",
        "let start = std::time::SystemTime::now();",
    ] {
        assert_eq!(src(code), 1, "{code}");
    }
    for code in [
        "use crate::sync::{Mutex, RwLock};",
        "use std::sync::Arc;\nuse crate::sync::Mutex;",
        "// As bincode does, with Instant::now and parking_lot.",
        "clock.now();",
    ] {
        assert_eq!(src(code), 0, "{code}");
    }
    assert_eq!(offences("src/clock.rs", "//! Time.\nInstant::now();"), 0);
    let changelog = |text: &str| {
        let mut found = Vec::new();
        check_changelog(text, "0.2.0", &mut found);
        found.len()
    };
    assert_eq!(changelog(""), 1);
    assert_eq!(changelog("# Changes\n\n## 0.1.0\n\n## 0.2.0\n"), 1);
    assert_eq!(changelog("# Changes\n\n## Unreleased\n\n## [0.2.0] - 2026-01-01\n\n## 0.1.0\n"), 0);
    assert_eq!(changelog("## 0.2.0 (unreleased)\n"), 0);
}
