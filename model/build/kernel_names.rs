//! The names of all kernels, read from their CUDA sources: functions that are declared `extern "C" __global__`, and those that
//! macros declare wherever these are used.

use std::collections::BTreeMap;

/// A function-like macro: the names of its parameters, and of the kernels that its body declares, in terms of them.
struct KernelMacro {
    parameters: Vec<String>,
    kernels: Vec<String>,
}

/// All kernels of these sources, sorted.
pub fn kernel_names(sources: &[String]) -> Vec<String> {
    let (mut definitions, mut code) = (Vec::new(), String::new());
    for source in sources {
        for line in without_comments(source).replace("\\\n", " ").lines() {
            match line.trim_start().strip_prefix("#define ") {
                Some(definition) => definitions.extend(definition_of(definition)),
                None if line.trim_start().starts_with('#') => {}
                None => code.extend([line, "\n"]),
            }
        }
    }
    let names: Vec<&str> = definitions.iter().map(|(name, _, _)| name.as_str()).collect();
    let mut found = declared(&code, &names);
    let macros: BTreeMap<&str, KernelMacro> = definitions
        .iter()
        .map(|(name, parameters, body)| {
            let kernels = declared(body, &names);
            (name.as_str(), KernelMacro { parameters: parameters.clone(), kernels })
        })
        .collect();
    for (name, KernelMacro { parameters, kernels }) in macros {
        for arguments in calls(&code, name) {
            found.extend(kernels.iter().map(|kernel| expanded(kernel, parameters.as_slice(), &arguments)));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn without_comments(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some(at) = rest.find('/') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.starts_with("/*") {
            rest = &rest[rest.find("*/").map_or(rest.len(), |end| end + 2)..];
        } else {
            out.push('/');
            rest = &rest[1..];
        }
    }
    out + rest
}

/// Name, parameters and body of a function-like macro.
fn definition_of(definition: &str) -> Option<(String, Vec<String>, String)> {
    let open = definition.find(|c: char| !is_word(c))?;
    let (name, rest) = definition.split_at(open);
    let (parameters, body) = parenthesised(rest)?;
    Some((name.to_owned(), arguments_of(parameters), body.to_owned()))
}

/// The names that follow `extern "C" __global__ void` and launch bounds. One that is a macro declares its first argument.
fn declared(code: &str, macros: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for after in code.split("__global__").skip(1) {
        let mut rest = after.trim_start().strip_prefix("void").unwrap_or(after).trim_start();
        if let Some(bounds) = rest.strip_prefix("__launch_bounds__") {
            rest = parenthesised(bounds).map_or("", |(_, rest)| rest.trim_start());
        }
        let end = rest.find(|c: char| !is_word(c) && c != '#').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        match parenthesised(rest) {
            Some((arguments, _)) if macros.contains(&name) => {
                found.extend(arguments_of(arguments).into_iter().next());
            }
            _ if !name.is_empty() => found.push(name.to_owned()),
            _ => {}
        }
    }
    found
}

/// The arguments of every use of a macro.
fn calls(code: &str, name: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(name) {
        let is_whole = !code[..at].ends_with(is_word);
        if let (true, Some((arguments, _))) = (is_whole, parenthesised(&code[at + name.len()..])) {
            found.push(arguments_of(arguments));
        }
    }
    found
}

/// A macro's kernel with its parameters replaced and the parts around `##` joined.
fn expanded(kernel: &str, parameters: &[String], arguments: &[String]) -> String {
    let part = |part: &str| {
        let place = parameters.iter().position(|parameter| parameter == part);
        place.and_then(|place| arguments.get(place)).map_or(part, String::as_str).to_owned()
    };
    kernel.split("##").map(|piece| part(piece.trim())).collect()
}

/// What stands in the parentheses that `text` begins with, and what follows them.
fn parenthesised(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('(')?;
    let mut depth = 1;
    for (at, c) in inner.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&inner[..at], &inner[at + 1..]));
        }
    }
    None
}

/// Split at the commas that stand in no parentheses.
fn arguments_of(text: &str) -> Vec<String> {
    let (mut arguments, mut depth) = (vec![String::new()], 0);
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        match (c, arguments.last_mut()) {
            (',', _) if depth == 0 => arguments.push(String::new()),
            (_, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    arguments.iter().map(|argument| argument.trim().to_owned()).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
