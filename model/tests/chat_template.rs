//! Chat templates: Jinja's and Python's manners on templates of our own, failures, sources; by hand, the published
//! templates (`SELFPLAY_CHAT_TEMPLATES` names a folder with a golden file and its templates).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use selfplay_model::{ChatTemplate, ModelError, SpecialTokens, Tokenizer};
use selfplay_records::{HasKind, Kind, Message, atomic};
use selfplay_testing::refusal::refusal_at;
use serde_json::{Value, json};

fn template(text: &str) -> Result<ChatTemplate, ModelError> {
    let special = SpecialTokens::new([("bos_token", "<s>"), ("eos_token", "</s>")]);
    ChatTemplate::from_source(text, Path::new("m/chat_template.jinja"), &special)
}

fn conversation() -> Vec<Message> {
    vec![Message::user("Hi"), Message::assistant("Ho"), Message::user("<é & 'x'>")]
}

fn render(text: &str) -> String {
    template(text).unwrap().render(&conversation(), true).unwrap()
}

fn failure(text: &str) -> String {
    let rendered = template(text).and_then(|template| template.render(&conversation(), true));
    refusal_at("m/chat_template.jinja", rendered)
}

#[test]
fn blocks_are_trimmed_and_tokens_are_known() {
    let text = "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'user' %}\n[{{ m['content'] }}]\n  \
                {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}A:{% endif %}\n";
    assert_eq!(render(text), "<s>[Hi]\n[<é & 'x'>]\nA:");
    assert_eq!(
        render("{{ pad_token }}{{ tools is none }}{{ documents is none }}{{ eos_token }}\n"),
        "TrueTrue</s>"
    );
}

#[test]
fn values_print_as_in_python() {
    assert_eq!(
        render("{{ true }} {{ none }} {{ [1, 'a', none, 1.5] }} {{ {'k': false} }}"),
        "True None [1, 'a', None, 1.5] {'k': False}"
    );
    assert_eq!(render("{{ messages[0] }}"), "{'role': 'user', 'content': 'Hi'}");
    assert_eq!(render("{{ ('x' ~ (true | string)) }}"), "xTrue");
    assert_eq!(render("{{ [\"it's\"] }}"), "[\"it's\"]");
}

#[test]
fn tojson_as_transformers_gives_it() {
    assert_eq!(render("{{ messages[2] | tojson }}"), "{\"role\": \"user\", \"content\": \"<é & 'x'>\"}");
    assert_eq!(render("{{ [1, [], {}] | tojson(indent=2) }}"), "[\n  1,\n  [],\n  {}\n]");
    assert_eq!(
        render("{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true) }}"),
        "{\"a\": 1, \"b\": \"\\u00e9\"}"
    );
    assert_eq!(render("{{ [1, 2] | tojson(separators=(',', ':')) }}"), "[1,2]");
}

#[test]
fn methods_of_python_strings() {
    assert_eq!(
        render("{{ ' a '.strip() }}|{{ 'a,b'.split(',')[1] }}|{{ 'ab'.startswith('a') }}"),
        "a|b|True"
    );
    assert_eq!(
        render("{{ 'a-b-c'.rsplit('-', 1) }}{{ 'abc'.removeprefix('a') }}{{ 'a=b'.partition('=') }}"),
        "['a-b', 'c']bc('a', '=', 'b')"
    );
    assert_eq!(render("{{ messages[0].get('name', 'none') }}{{ '-7'.zfill(4) }}"), "none-007");
    assert_eq!(render("{% for m in messages[1:][::-1] %}{{ m.content[0] }}{% endfor %}"), "<H");
}

#[test]
fn loops_break_and_continue() {
    let text = "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}";
    assert_eq!(render(text), "023");
    let namespace =
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}";
    assert_eq!(render(namespace), "3");
}

#[test]
fn generation_tags_and_carriage_returns_are_transparent() {
    let plain = "{% for m in messages %}\n{{- m.content }}\n{% endfor %}";
    let marked = "{% for m in messages %}\r\n{% generation %}\r\n{{- m.content }}\r\n{%- endgeneration %}\r\n\n{% endfor %}";
    assert_eq!(render(plain), "HiHo<é & 'x'>".replace("HiHo", "Hi\nHo\n") + "\n");
    assert_eq!(render(marked), render(plain));
}

#[test]
fn what_a_template_refuses_and_where_it_fails() {
    let refusal = failure("{{ raise_exception('roles must alternate') }}");
    assert!(refusal.contains("refuses this conversation: roles must alternate"), "{refusal}");
    let in_macro = failure("{% macro f() %}{{ raise_exception('no') }}{% endmacro %}{{ f() }}");
    assert!(in_macro.contains("refuses this conversation: no"), "{in_macro}");
    let syntax = failure("line one\n{% if %}");
    assert!(syntax.contains("syntax error") && syntax.contains("line 2"), "{syntax}");
    let fails = failure("a\nb{{ messages[0].content.nonsense() }}");
    assert!(fails.contains("fails") && fails.contains("line 2"), "{fails}");
    assert!(failure("{% generation %}x").contains("syntax error"));
    assert!(failure("{{ strftime_now('%Q') }}").contains("time format"));
    assert!(failure("{{ strftime_now('%Z') }}").contains("time format"));
}

#[test]
fn a_template_without_end_is_stopped() {
    let start = Instant::now();
    let endless =
        "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i + j %}{% endfor %}{% endfor %}";
    assert!(failure(endless).contains("ran too long"));
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    failure(recursive);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn text_without_bound_is_stopped() {
    let long = "x".repeat(100_000);
    let printed = format!("{{% for i in range(99999) %}}{long}{{% endfor %}}");
    assert!(failure(&printed).contains("MiB of text"));
    let collected =
        format!("{{% set a %}}{{% for i in range(99999) %}}{{{{ '{long}' }}}}{{% endfor %}}{{% endset %}}");
    assert!(failure(&collected).contains("MiB of text"));
    // Lists that hold one another print to 2⁴⁰ items.
    let nested = "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}";
    assert!(failure(nested).contains("MiB of text"));
    assert!(failure(&nested.replace("{{ ns.l }}", "{{ ns.l | tojson }}")).contains("MiB of text"));
}

#[test]
fn doubling_is_stopped() {
    let doubling = |set: &str| {
        failure(&format!(
            "{{% set ns = namespace(s='xy') %}}{{% for i in range(60) %}}{{% set {set} %}}{{% endfor %}}"
        ))
    };
    for set in [
        "ns.s = ns.s ~ ns.s",
        "ns.s = ns.s + ns.s",
        "ns.s = [ns.s, ns.s] | join",
        "ns.s=ns.s|replace('x','xx')~ns.s",
    ] {
        assert!(doubling(set).contains("MiB of text"), "{set}");
    }
}

#[test]
fn sources_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, text: &str| atomic::write_bytes(&folder.path().join(name), text.as_bytes()).unwrap();
    let now = |file: Option<&Path>| {
        ChatTemplate::for_model(folder.path(), file)
            .unwrap()
            .map(|template| template.render(&[], false).unwrap())
    };
    assert_eq!(now(None), None);
    write("chat_template.json", r#"{"chat_template": "json"}"#);
    assert_eq!(now(None).as_deref(), Some("json"));
    let list = json!({"bos_token": {"content": "<b>"}, "chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}list"}]});
    write("tokenizer_config.json", &list.to_string());
    assert_eq!(now(None).as_deref(), Some("<b>list"));
    write("chat_template.jinja", "jinja{{ bos_token }}");
    assert_eq!(now(None).as_deref(), Some("jinja<b>"));
    write("other.json", r#"{"chat_template": "other"}"#);
    assert_eq!(now(Some(&folder.path().join("other.json"))).as_deref(), Some("other"));
    write("other.txt", "text{{ bos_token }}");
    assert_eq!(now(Some(&folder.path().join("other.txt"))).as_deref(), Some("text<b>"));
    for absent in ["no.jinja", "no.json"] {
        let error = ChatTemplate::for_model(folder.path(), Some(&folder.path().join(absent))).err().unwrap();
        assert!(error.kind() == Kind::Input && error.to_string().contains("no such file"), "{error}");
    }
    write("list.json", r#"{"chat_template": [{"name": "tool_use", "template": "x"}]}"#);
    let error = ChatTemplate::for_model(folder.path(), Some(&folder.path().join("list.json"))).err().unwrap();
    assert!(error.to_string().contains("default"), "{error}");
}

/// By hand: `SELFPLAY_CLOCK=2026-11-22 SELFPLAY_CHAT_TEMPLATES=…/chat_templates cargo test --release -p selfplay-model`.
/// The folder holds golden_transformers_*.json: rows of template (a path below the folder's parent, or "… (own)"),
/// tokenizer (a folder below ../tokenizers), conversation, add_generation_prompt, and text and ids, or error.
#[test]
fn published_templates_where_there_are_any() {
    let Some(folder) = std::env::var_os("SELFPLAY_CHAT_TEMPLATES").map(PathBuf::from) else { return };
    let parent = folder.parent().unwrap();
    let golden = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("golden_transformers"))
        .unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let mut failures = Vec::new();
    let mut tokenizers: Vec<(String, Tokenizer)> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let name = row["template"].as_str().unwrap();
        let tokenizer = row["tokenizer"].as_str().unwrap();
        let model = parent.join("tokenizers").join(tokenizer);
        if !tokenizers.iter().any(|(known, _)| known == tokenizer) {
            tokenizers.push((tokenizer.to_owned(), Tokenizer::load(&model).unwrap()));
        }
        let tokenizer = &tokenizers.iter().find(|(known, _)| known == tokenizer).unwrap().1;
        let file = (!name.ends_with("(own)")).then(|| parent.join(name));
        let messages: Vec<Message> = serde_json::from_value(row["conversation"].clone()).unwrap();
        let rendered = ChatTemplate::for_model(&model, file.as_deref())
            .and_then(|template| template.unwrap().render(&messages, row["add_generation_prompt"] == true));
        match (rendered, row["text"].as_str()) {
            (Ok(text), Some(want)) => {
                let ids = tokenizer.encode(&text, false).unwrap();
                if text != want {
                    failures.push(format!("row {index} {name}:\n  got  {text:?}\n  want {want:?}"));
                } else if json!(ids) != row["ids"] {
                    failures.push(format!("row {index} {name}: ids differ"));
                }
            }
            (Err(error), None) if error.kind() == Kind::Input => {
                let want = row["error"].as_str().unwrap().trim_start_matches("TemplateError: ");
                if !error.to_string().contains(want) {
                    failures.push(format!("row {index} {name}: {error}, want {want}"));
                }
            }
            (Err(error), _) => failures.push(format!("row {index} {name}: {error}")),
            (Ok(text), None) => failures.push(format!("row {index} {name}: no error but {text:?}")),
        }
    }
    println!("{} of {} rows", rows.len() - failures.len(), rows.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn messages(text: &str) -> Vec<Message> {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_template_sees_parts_where_it_goes_through_them_and_text_where_it_does_not() {
    let conversation = messages(
        r#"[{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]"#,
    );
    let by_parts = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}";
    assert_eq!(template(by_parts).unwrap().render(&conversation, false).unwrap(), "<one><two>");
    for text_alone in [
        "{% for m in messages %}{{ '[' + m['content'] + ']' }}{% endfor %}",
        "{% for m in messages %}[{{ m.content }}]{% endfor %}",
    ] {
        assert_eq!(
            template(text_alone).unwrap().render(&conversation, false).unwrap(),
            "[one\ntwo]",
            "{text_alone}"
        );
    }
}

#[test]
fn calls_of_tools_reach_the_template_beside_a_content_that_is_none() {
    let conversation = messages(
        r#"[{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "w", "arguments": {"c": 1}}}]}, {"role": "tool", "name": "w", "content": "12"}]"#,
    );
    let text = "{% for m in messages %}{% if m.content is none %}{% for c in m.tool_calls %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}{% else %} {{ m.name }}: {{ m.content }}{% endif %}{% endfor %}";
    assert_eq!(template(text).unwrap().render(&conversation, false).unwrap(), "w({\"c\": 1}) w: 12");
}
