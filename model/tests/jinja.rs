//! Small templates against what jinja2 prints of them (`tests/parity/reference/jinja.py` says how it is set up), and the
//! bounds of a rendering.

use std::path::Path;
use std::time::{Duration, Instant};

use selfplay_model::{ChatTemplate, ModelError, SpecialTokens};
use selfplay_records::{HasKind, Kind, Message};
use serde_json::Value;

const ROWS: &str = include_str!("../../tests/parity/reference/jinja.jsonl");

fn rendered(text: &str) -> Result<String, ModelError> {
    let special = SpecialTokens::new([("bos_token", "<s>"), ("eos_token", "</s>")]);
    let messages = [Message::user("Hi"), Message::assistant("Ho"), Message::user("<é & 'x'>")];
    ChatTemplate::from_source(text, Path::new("t.jinja"), &special)?.render(&messages, true)
}

#[test]
fn jinja2_prints_the_same() {
    let mut differing = Vec::new();
    let mut count = 0;
    for line in ROWS.lines().skip(1) {
        let row: [Value; 2] = serde_json::from_str(line).unwrap();
        let template = row[0].as_str().unwrap();
        count += 1;
        match (rendered(template), row[1].as_str()) {
            (Ok(text), Some(want)) if text == want => {}
            (Err(error), None) if (error.kind() == Kind::Input) => {}
            (got, want) => differing.push(format!(
                "{template:?}\n    jinja2 {want:?}\n    here   {:?}",
                got.map_err(|error| error.to_string())
            )),
        }
    }
    assert!(count > 600, "{count} templates");
    assert!(differing.is_empty(), "{} of {count} differ:\n{}", differing.len(), differing.join("\n"));
}

/// What a hostile template is stopped with, within seconds and 64 MiB.
#[test]
fn bounds_hold_whatever_makes_the_text() {
    let withs = "{% with x = x ~ x %}".repeat(33);
    let loops = "{% for x in [x ~ x ~ x ~ x] %}".repeat(12);
    let (end_withs, end_loops) = ("{% endwith %}".repeat(34), "{% endfor %}".repeat(13));
    let templates = [
        "{% macro f(x, n) %}{% if n %}{{ f(x ~ x, n - 1) }}{% else %}{{ x | length }}{% endif %}{% endmacro %}{{ f('a', 33) }}",
        &format!("{{% with x = 'a' %}}{withs}{{{{ x | length }}}}{end_withs}"),
        &format!("{{% for x in ['a' * 1000] %}}{loops}{{{{ x | length }}}}{end_loops}"),
        "{{ range(99999) | join('a' * 100000) | length }}",
        "{{ ('a' * 10000) | replace('a', 'a' * 10000) | replace('a', 'a' * 100) | length }}",
        "{{ ('a\n' * 10000) | indent(1000000) | length }}",
        "{{ '%10000000000d' | format(1) }}",
        "{{ '%*d' | format(10000000000, 1) }}",
        "{{ '%.10000000000f' | format(1) }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ '{:.10000000000f}'.format(1.5) }}",
        "{{ [1] | batch(1000000000, 'x') | list | length }}",
        "{{ [1] | slice(1000000000, 'x') | list | length }}",
        "{{ 'a' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ (1, 2) * 9999999999999 }}",
        "{{ 'a'.center(10000000000) }}{{ 'a' | center(10000000000) }}",
        "{{ 'a'.zfill(10000000000) }}",
        "{{ 'a'.ljust(10000000000, 'é') }}",
        "{{ 'a\tb'.expandtabs(10000000000) }}",
        "{{ [[1]] | tojson(indent=10000000000) }}",
        "{% set ns = namespace(l=['a']) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% set ns = namespace(d='ab') %}{% for i in range(99) %}{% set ns.d = ns.d.replace('a', 'aaaa') %}{% endfor %}",
        "{% set ns = namespace(d='ab') %}{% for i in range(99) %}{% set ns.d = ns.d | e | replace('a', '&&&&') %}{% endfor %}",
        "{% set ns = namespace(d='ab') %}{% for i in range(99) %}{% set ns.d = '%s%s' % (ns.d, ns.d) %}{% endfor %}",
        "{% set ns = namespace(d='ab') %}{% for i in range(99) %}{% set ns.d = '{0}{0}'.format(ns.d) %}{% endfor %}",
        "{% set ns = namespace(d='ab') %}{% for i in range(99) %}{% set ns.d = ns.d.join([ns.d, ns.d]) %}{% endfor %}",
        "{% set ns = namespace(d='ab') %}{% for i in range(99) %}{% set ns.d = [ns.d, ns.d] | string %}{% endfor %}",
        "{% set ns = namespace(d='ab') %}{% for i in range(99) %}{% set x %}{{ ns.d }}{{ ns.d }}{% endset %}{% set ns.d = x %}{% endfor %}",
        "{% set ns = namespace(d={}) %}{% for i in range(99999) %}{% set ns.d = dict(ns.d, **{i | string: 'a' * 9999}) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = namespace() %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% macro f() %}{% endmacro %}{% endfor %}{% endfor %}",
        "{% for i in range(90000) %}{{ ('a' * 60000000) | length }}{% endfor %}",
        "{% for i in range(90000) %}{{ ('ab' * 1000000) | replace('a', 'b') | length }}{% endfor %}",
        "{% for i in range(90000) %}{{ range(99999) | join | length }}{% endfor %}",
        "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{{ s.find('b') }}{% endfor %}",
        "{% set s = 'é' * 9999999 %}{% for i in range(99999) %}{{ s[-1] }}{% endfor %}",
        "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{{ 'b' in s }}{{ s == s ~ '' }}{% endfor %}",
        "{% set s = range(99999) | list %}{% for i in range(99999) %}{{ -1 in s }}{{ s[1:] | length }}{% endfor %}",
        "{% set s = range(99999) | list %}{% for i in range(99999) %}{{ s | sort | first }}{% endfor %}",
        "{% set s = range(99999) | list %}{% for i in range(99999) %}{{ s | unique | list | length }}{% endfor %}",
        "{% set s = [1] * 999999 %}{% for i in range(99999) %}{% set x = s | unique | first %}{% endfor %}",
        "{% set s = range(99999) | list %}{% for i in range(99999) %}{% set x = cycler(*s) %}{% endfor %}",
        "{% set s = range(99999) | list %}{% for i in range(99999) %}{% set x = ''.format(*s) %}{% endfor %}",
        "{% set d = dict(range(99998) | map('string') | batch(2)) %}{% for i in range(99999) %}{% set x = ''.format(**d) %}{% endfor %}",
        "{% set d = dict(range(99998) | map('string') | batch(2)) %}{% for i in range(99999) %}{% set x = ''.format_map(d) %}{% endfor %}",
        "{% set d = dict(range(99998) | map('string') | batch(2)) %}{% for i in range(99999) %}{% set x = namespace(d) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = {'a': (ns.l,)} %}{% endfor %}",
        "{% set s = 'é' * 9999999 %}{% for i in range(99999) %}{% for j in range(99999) %}{{ s | length }}{% endfor %}{% endfor %}",
        "{% set s = 'é' * 9999999 %}{% for i in range(99999) %}{% for j in range(99999) %}{% if s is upper %}{% endif %}{% endfor %}{% endfor %}",
        "{% set s = ['']  * 99999 %}{% for i in range(99999) %}{% for j in range(99) %}{{ ''.join(s) }}{% endfor %}{% endfor %}",
        "{% set s = ('b',) * 99999 %}{% for i in range(99999) %}{% for j in range(99) %}{% set x = 'a'.startswith(s) %}{% endfor %}{% endfor %}",
        "{% set s = [[]] * 99999 %}{% for i in range(99999) %}{% set x = s | string %}{% set x = s | tojson %}{% endfor %}",
        "{{ ('\n' * 60000000) | indent | length }}",
        "{{ ('a ' * 30000000).split() | length }}",
        "{{ ('a ' * 30000000) | wordwrap | length }}",
        "{{ ('a ' * 30000000) | striptags | length }}",
        "{% for i in range(99999) %}{{ ('a' * 1500000) | wordwrap(1) | length }}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns == [ns] }}{{ ns | string }}",
    ];
    for template in templates {
        let start = Instant::now();
        let error = rendered(template).expect_err(template);
        assert!((error.kind() == Kind::Input), "{template}: {error}");
        let text = error.to_string();
        assert!(
            ["more than", "deep", "too large"].iter().any(|part| text.contains(part)),
            "{template}: {text}"
        );
        assert!(start.elapsed() < Duration::from_secs(10), "{template}: {:?}", start.elapsed());
    }
}

#[test]
fn depth_of_a_template_s_text_is_bounded() {
    let deep = |open: &str, middle: &str, close: &str| {
        format!("{}{middle}{}", open.repeat(40_000), close.repeat(40_000))
    };
    let templates = [
        format!("{{{{ {} }}}}", deep("-", "1", "")),
        format!("{{{{ {} }}}}", deep("- ", "1", "")),
        format!("{{{{ {} }}}}", deep("not ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 + ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 ~ 1 + ", "1", "")),
        format!("{{{{ {} }}}}", deep("2 ** ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 or ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 if 1 else ", "1", "")),
        format!("{{{{ a{} }}}}", ".b".repeat(60_000)),
        format!("{{{{ a{} }}}}", "[0]".repeat(60_000)),
        format!("{{{{ a{} }}}}", "()".repeat(60_000)),
        format!("{{{{ a{} }}}}", " | e".repeat(60_000)),
        format!("{{{{ a is {}b }}}}", "not ".repeat(60_000)),
        format!("{{{{ {} }}}}", deep("(", "1", ")")),
        format!("{{{{ {} }}}}", deep("[", "1", "]")),
        format!("{{{{ {} }}}}", deep("{1:", "1", "}")),
        format!("{{{{ {} }}}}", deep("f(", "1", ")")),
        format!("{{% set {} = 1 %}}", deep("(", "a", ")")),
        deep("{% if 1 %}", "a", "{% endif %}"),
        deep("{% for i in a %}", "a", "{% endfor %}"),
        deep("{% set a %}", "a", "{% endset %}"),
        deep("{% macro a() %}", "a", "{% endmacro %}"),
        deep("{% filter e %}", "a", "{% endfilter %}"),
    ];
    for template in templates {
        // Of half the stack that a thread has.
        let begin: String = template.chars().take(30).collect();
        let check = move || rendered(&template).map(|_| ()).map_err(|error| error.to_string());
        let result = std::thread::Builder::new().stack_size(1 << 20).spawn(check).unwrap().join().unwrap();
        assert!(result.is_err_and(|error| error.starts_with("t.jinja: ")), "{begin}");
    }
}

/// The deepest that is let through, in a small stack: brackets within calls within macros.
#[test]
fn the_deepest_that_runs_fits_a_small_stack() {
    let nested = format!("{}1{}", "(0 + ".repeat(50), ")".repeat(50));
    let macros = format!(
        "{{% macro f(n) %}}{{% for i in [1] %}}{{% if n %}}{{{{ ([f(n - 1)] | first) ~ {nested} }}}}{{% endif %}}{{% endfor %}}{{% endmacro %}}{{{{ f(99999) }}}}"
    );
    for template in [format!("{{{{ {nested} }}}}"), macros] {
        let check = move || rendered(&template).map_err(|error| error.to_string());
        let result = std::thread::Builder::new().stack_size(1 << 20).spawn(check).unwrap().join().unwrap();
        assert!(
            result.as_ref().is_ok_and(|text| text == "1")
                || result.is_err_and(|error| error.contains("deep"))
        );
    }
}

#[test]
fn digits_past_a_double_s_are_zeros() {
    let text = rendered("{{ '%.70000f' | format(1.5) }}").unwrap();
    assert_eq!(text.len(), 70_002);
    assert!(text.starts_with("1.50") && text.ends_with("00"));
    assert_eq!(rendered("{{ '{:.70000e}'.format(1.5) }}").unwrap().len(), 70_006);
}
