//! Help that fits a screen, of every command there is, and completions.

use selfplay_testing::World;

/// Columns of a line of help.
const COLUMNS: usize = 80;

/// Lines of a command's help.
const LINES: usize = 30;

/// Of commands whose flags take more than a screen.
const LONGER: [(&str, usize); 2] = [("bench", 33), ("serve", 34)];

/// The commands, as the program's own help lists them.
fn commands(world: &World) -> Vec<String> {
    let help = world.selfplay(&["--help"]).ok().stdout;
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A long description goes on in the next line, indented further.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_command_s_help_fits_a_screen_and_ends_with_examples() {
    let world = crate::world();
    let commands = commands(&world);
    for name in ["run", "init", "doctor", "push", "train-preference", "completions"] {
        assert!(commands.iter().any(|one| one == name), "{name}: {commands:?}");
    }
    let mut wrong = Vec::new();
    for name in &commands {
        let mut command = world.command(&[name, "--help"]);
        let help = selfplay_testing::Outcome::of(command.env("COLUMNS", "200")).ok().stdout;
        let widest = help.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let lines = help.lines().count();
        let most = LONGER.iter().find(|(long, _)| long == name).map_or(LINES, |(_, most)| *most);
        if widest > COLUMNS || lines > most || !help.contains("\nExamples:\n  selfplay ") {
            wrong.push(format!("{name}: {lines} lines, {widest} columns"));
        }
        assert!(!help.contains('\u{1b}'), "{name}: colours without a terminal");
    }
    assert!(
        wrong.is_empty(),
        "more than {LINES} lines or {COLUMNS} columns, or no examples:\n{}",
        wrong.join("\n")
    );
    let all = world.selfplay(&["--help"]).ok().stdout;
    assert!(all.lines().all(|line| line.chars().count() <= COLUMNS), "{all}");
}

/// What the program answers a shell that completes the last of `words`.
fn completed(world: &World, words: &[&str]) -> Vec<String> {
    let last = (words.len() - 1).to_string();
    let mut command = world.command(&[&["--"], words].concat());
    command.env("SELFPLAY_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", last).env("_CLAP_IFS", "\n");
    let found = selfplay_testing::Outcome::of(&mut command).ok().stdout;
    found.lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_completes_commands_keys_words_and_files() {
    let world = crate::world();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = world.selfplay(&["completions", shell]).ok().stdout;
        assert!(script.contains("SELFPLAY_COMPLETE") && script.contains("selfplay"), "{shell}: {script}");
    }
    assert!(completed(&world, &["selfplay", "train"]).contains(&"train-preference".to_owned()));
    let keys = completed(&world, &["selfplay", "run", "--set", "train.lora.ra"]);
    assert!(keys.contains(&"train.lora.rank=".to_owned()), "{keys:?}");
    let words = completed(&world, &["selfplay", "run", "--set", "train.loss=sppo-s"]);
    assert_eq!(words, ["train.loss=sppo-single"]);
    let files = completed(&world, &["selfplay", "sample", "--prompts", "prom"]);
    assert_eq!(files, ["prompts.jsonl"]);
    let kinds = completed(&world, &["selfplay", "init", "--goal", ""]);
    assert!(kinds.contains(&"self-play".to_owned()), "{kinds:?}");
}
