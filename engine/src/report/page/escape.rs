//! Texts of files as parts of a page. Nothing that a model wrote, a prompt asks or a path is called reaches the page in another way.

use serde_json::Value;

use selfplay_records::shown::visible;

/// As text of an element or value of an attribute: no character that begins markup, and none that hides or turns what stands beside it.
pub(super) fn escape(text: &str) -> String {
    let shown = visible(text);
    let mut escaped = String::with_capacity(shown.len() + 16);
    for character in shown.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// As JSON within a `script` element: nothing in it can end the element, and scripts of every age read it.
pub(super) fn script_json(value: &Value) -> String {
    let text = value.to_string();
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is tried on pages.
    const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror=alert(1)> \" ' & \u{2028}\u{202e}\u{1b}[2J<!-- ]]>";

    #[test]
    fn no_text_leaves_its_place() {
        let text = escape(HOSTILE);
        assert!(!text.contains(['<', '>', '"', '\'', '\u{2028}', '\u{202e}', '\u{1b}']), "{text}");
        assert!(
            text.contains("&lt;/script&gt;") && text.contains("\\u2028") && text.contains("&amp;"),
            "{text}"
        );
        assert_eq!(escape("a\n\tb"), "a\n\tb");
    }

    #[test]
    fn json_stays_json_and_ends_no_script() {
        let value = json!({"name": HOSTILE});
        let text = script_json(&value);
        assert!(!text.contains(['<', '>', '&', '\u{2028}']), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
