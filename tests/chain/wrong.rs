//! Chains that are wrong: every problem before a folder is made.

use super::{CHAIN, world};
use crate::files::unchanged;

/// A chain of two trainings; `@` of each link's model as given.
fn two(first: &str, second: &str) -> String {
    let link = |name: &str, model: &str| {
        format!(
            "[[chain]]\nname = \"{name}\"\ncommand = \"train\"\n[chain.policy]\nmodel = \"{model}\"\n\
             [chain.train]\ndata = [\"pairs.jsonl\"]\nloss = \"dpo\"\n"
        )
    };
    format!("{}{}", link("a", first), link("b", second))
}

#[test]
fn references_lead_to_an_earlier_link_of_the_right_kind() {
    let world = world();
    let judge =
        CHAIN.replace("[chain.train]\ndata = [\"pairs.jsonl\"]", "[chain.train]\ndata = [\"@judge\"]");
    for (text, words) in [
        (two("@a", "policy"), &["chain.a.policy.model = \"@a\"", "a circle: a → a"][..]),
        (two("@b", "@a"), &["chain.a.policy.model = \"@b\"", "a circle: a → b → a"]),
        (two("@b", "policy"), &["chain.a.policy.model = \"@b\"", "is a later link", "before chain.a"]),
        (two("policy", "@c"), &["chain.b.policy.model = \"@c\"", "no link of this name", "@a"]),
        (two("@nothing", "policy"), &["chain.a.policy.model", "no link is before this one"]),
        (two("policy", "@a/../policy"), &["chain.b.policy.model", "within the link's folder"]),
        (two("policy", "@a").replacen("\"a\"", "\"sft2\"", 1), &["no link of this name"]),
        (
            CHAIN.replace("model = \"@judge\"", "model = \"@sft\""),
            &["chain.play.score.model = \"@sft\"", "a preference model is wanted, and @sft is a policy"],
        ),
        (
            CHAIN.replace("model = \"@whole\"", "model = \"@judge\""),
            &["chain.play.policy.model = \"@judge\"", "a policy is wanted, and @judge is a preference model"],
        ),
        (judge, &["chain.dpo.train.data = \"@judge\"", "a file of rows is wanted"]),
        (
            CHAIN.replace("[chain.policy]\nmodel = \"@dpo\"", "[chain.policy]\nmodel = \"@rows\"").replacen(
                "[[chain]]\nname = \"whole\"",
                "[[chain]]\nname = \"rows\"\ncommand = \"synthesize\"\n[chain.policy]\nmodel = \"@sft\"\n\
                 [chain.synthesize]\nseeds = \"@judge\"\n[[chain]]\nname = \"whole\"",
                1,
            ),
            &[
                "chain.rows.synthesize.seeds = \"@judge\"",
                "a file of rows is wanted, and @judge is a preference model",
                "chain.whole.policy.model = \"@rows\"",
            ],
        ),
        (
            CHAIN.replace("splits = [\"prompts.jsonl\"]", "splits = [\"@sft\"]"),
            &["chain.play.prompts.splits = \"@sft\"", "a file of rows is wanted, and @sft is a policy"],
        ),
        (
            CHAIN.replace("model = \"@dpo\"", "model = \"@sft\""),
            &["chain.whole.policy.model = \"@sft\"", "the link sft trains none"],
        ),
    ] {
        world.write("wrong.toml", &text);
        let before = world.names();
        for command in ["run", "check", "plan"] {
            world.selfplay(&[command, "wrong.toml"]).refused(&[&["wrong.toml"], words].concat());
        }
        unchanged(&world, &before);
    }
}

#[test]
fn links_are_told_from_each_other_and_from_a_run_s_sections() {
    let world = world();
    for (text, words) in [
        (
            CHAIN.replace("name = \"judge\"", "name = \"sft\""),
            &["chain.sft.name", "two links of one name"][..],
        ),
        (
            CHAIN.replace("name = \"judge\"", "name = \"SFT\""),
            &["chain.SFT.name", "two links of one name (sft)"],
        ),
        (
            CHAIN.replace("command = \"sft\"", "command = \"stf\""),
            &["chain.sft.command", "did you mean sft?"],
        ),
        (CHAIN.replace("command = \"merge\"\n", ""), &["chain.whole.command: absent", "sft, train"]),
        (CHAIN.replace("name = \"play\"\n", ""), &["chain[5].name: absent"]),
        (CHAIN.replace("name = \"play\"", "name = \"../play\""), &["chain[5].name", "letters, digits"]),
        (
            CHAIN.replace("[chain.sft]", "[chain.train]\nbeta = 1\n[chain.sft]"),
            &["chain.sft.train: has no effect in a link of sft, which reads policy, sft"],
        ),
        (CHAIN.replace("seed = 7", "seed = 7\niterations = 2"), &["iterations: ", "chain.iterations"]),
        (format!("{CHAIN}\n[chain.colour]\nx = 1"), &["chain.play.colour: unknown key"]),
        (format!("sead = 1\n{CHAIN}"), &["sead: unknown key; did you mean seed?"]),
        (format!("chain = 3\n{}", world.recipe()), &["chain: links are wanted"]),
        (
            format!("chain = []\n{}", world.recipe()),
            &["chain: no links", "policy: of a chain it belongs to a link"],
        ),
        (CHAIN.replace("data = [\"instructions.jsonl\"]\n", ""), &["chain.sft.sft.data: absent"]),
        (
            CHAIN.replace("instructions.jsonl", "nothing.jsonl"),
            &["chain.sft.sft.data", "nothing.jsonl", "no such file"],
        ),
        (CHAIN.replacen("learning_rate = 1e-3", "learning_rate = -1", 1), &["chain.sft.sft.learning_rate"]),
        (CHAIN.replacen("[chain.policy]\nmodel = \"policy\"\n", "", 1), &["chain.sft.policy.model: absent"]),
        (
            CHAIN.replacen("model = \"policy\"", "model = \"./nowhere\"", 1),
            &["chain.sft.policy.model", "nowhere"],
        ),
    ] {
        world.write("wrong.toml", &text);
        let before = world.names();
        world.selfplay(&["run", "wrong.toml"]).refused(&[&["wrong.toml"], words].concat());
        unchanged(&world, &before);
    }
}

#[test]
fn set_names_a_link_s_key() {
    let world = world();
    let before = world.names();
    for (set, words) in [
        (
            "chain.sfft.sft.epochs=2",
            &["chain.sfft.sft.epochs: no link of this name; did you mean chain.sft?"][..],
        ),
        ("chain.sft.command=train", &["chain.sft.command", "the recipe's"]),
        ("sft.epochs=2", &["sft.epochs", "chain.sft.sft.epochs"]),
        ("chain.sft.sft.epoch=2", &["chain.sft.sft.epoch: unknown key; did you mean sft.epochs?"]),
        ("chain.dpo.policy.model=@play", &["chain.dpo.policy.model = \"@play\"", "a circle"]),
    ] {
        world.selfplay(&["check", "chain.toml", "--set", set]).refused(words);
    }
    world.selfplay(&["check", "chain.toml", "--set", "chain.sft.sft.epochs=2", "--set", "seed=3"]).ok();
    // A link's key wins over the chain's.
    let of = |set: &str| world.selfplay(&["check", "chain.toml", "--set", set]);
    of("chain.sft.seed=-1").refused(&["chain.sft.seed"]);
    of("seed=-1").refused(&["chain.sft.seed", "chain.play.seed"]);
    unchanged(&world, &before);
}

#[test]
fn a_stage_command_reads_no_chain() {
    let world = world();
    let train = ["train", "--recipe", "chain.toml", "--pairs", "pairs.jsonl", "--output", "out"];
    world
        .selfplay(&train)
        .refused(&["chain.toml", "chain: a recipe with [[chain]] is for run, check and plan"]);
}

#[test]
fn wrong_rows_of_the_first_link_leave_nothing() {
    let world = world();
    world.write("instructions.jsonl", "{\"prompt\": \"a\"}\n");
    let before = world.names();
    let refused =
        world.selfplay(&["run", "chain.toml", "-o", "chain"]).refused(&["link sft", "instructions.jsonl"]);
    assert!(!refused.stderr.contains("resume"), "{}", refused.stderr);
    unchanged(&world, &before);
    // A later link's: what is finished stays, and the corrected rows are taken up.
    let world = super::world();
    let right = world.bytes("pairs.jsonl");
    world.write("pairs.jsonl", "{\"chosen\": 3}\n");
    world.selfplay(&["run", "chain.toml", "-o", "chain", "-q"]).refused(&["link judge", "pairs.jsonl"]);
    assert!(world.path("chain/sft/policy").is_dir());
    world.write_bytes("pairs.jsonl", &right);
    world.selfplay(&["resume", "chain", "-q"]).ok();
}
