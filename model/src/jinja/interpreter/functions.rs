//! The functions that every template has.

use std::rc::Rc;

use super::super::call_arguments::CallArguments;
use super::super::fault::{FaultKind, RenderResult, TemplateFault, fail};
use super::super::print;
use super::super::text_buffer::TextBuffer;
use super::super::value::{Function, Range, TemplateValue, pairs_of};
use super::{ENTRY_BYTES, Interpreter};

/// What Jinja's sandbox allows `range` to count.
const MOST_RANGE: usize = 100_000;

impl Interpreter<'_> {
    pub(super) fn call_function(
        &mut self,
        function: Function,
        args: CallArguments,
    ) -> RenderResult<TemplateValue> {
        match function {
            Function::Range => range(args),
            Function::Dict => {
                let [source] = CallArguments::of(args.positional).bind("dict", ["mapping"])?;
                let mut pairs = match source {
                    None => Vec::new(),
                    Some(TemplateValue::Dict(dict)) => dict.entries.clone(),
                    Some(other) => pairs_of(&other)?,
                };
                for (name, value) in args.named {
                    pairs.push((TemplateValue::text(name)?, value));
                }
                TemplateValue::dict(pairs)
            }
            Function::Namespace => {
                self.tables.grow(ENTRY_BYTES)?;
                self.namespaces.push(Vec::new());
                let place = self.namespaces.len() - 1;
                let TemplateValue::Dict(first) = self.call_function(Function::Dict, args)? else {
                    return fail("namespace() takes a mapping");
                };
                self.tables.grow(first.entries.len() * 2 * size_of::<TemplateValue>())?;
                self.namespaces[place] = first.entries.clone();
                Ok(TemplateValue::Namespace(place))
            }
            Function::Cycler => {
                if args.positional.is_empty() {
                    return fail("at least one item has to be provided");
                }
                self.tables.grow(ENTRY_BYTES + args.positional.len() * size_of::<TemplateValue>())?;
                self.cyclers.push((args.positional, 0));
                Ok(TemplateValue::Cycler(self.cyclers.len() - 1))
            }
            Function::Joiner => {
                let [separator] = args.bind("joiner", ["sep"])?;
                let separator = match separator {
                    Some(separator) => separator,
                    None => TemplateValue::text(", ")?,
                };
                self.tables.grow(ENTRY_BYTES)?;
                self.joiners.push((separator, false));
                Ok(TemplateValue::Joiner(self.joiners.len() - 1))
            }
            Function::Lipsum => fail("lipsum() draws at random, which a chat template must not"),
            Function::RaiseException => {
                let [message] = args.bind("raise_exception", ["message"])?;
                let mut text = TextBuffer::default();
                print::print(self, &message.unwrap_or(TemplateValue::None), &mut text)?;
                Err(TemplateFault::new(FaultKind::Refused(text.into_string())))
            }
            Function::StrftimeNow => {
                let [format] = args.bind("strftime_now", ["format"])?;
                match format.as_ref().and_then(TemplateValue::as_str) {
                    Some(format) => TemplateValue::text((self.clock)(format).map_err(TemplateFault::failed)?),
                    None => fail("strftime_now() takes a format"),
                }
            }
        }
    }
}

fn range(args: CallArguments) -> RenderResult<TemplateValue> {
    let count = args.positional.len();
    let bounds = args.bind("range", ["start", "stop", "step"])?;
    let mut numbers = [0_i64; 3];
    for (number, bound) in numbers.iter_mut().zip(bounds.iter().flatten()) {
        *number = match bound {
            TemplateValue::Undefined(missing) => return fail(missing.0.clone()),
            other => match other.as_int().and_then(|number| i64::try_from(number).ok()) {
                Some(number) => number,
                None => {
                    return fail(format!(
                        "'{}' object cannot be interpreted as an integer",
                        other.type_name()
                    ));
                }
            },
        };
    }
    let range = match count {
        1 => Range { start: 0, stop: numbers[0], step: 1 },
        2 => Range { start: numbers[0], stop: numbers[1], step: 1 },
        3 if numbers[2] == 0 => return fail("range() arg 3 must not be zero"),
        3 => Range { start: numbers[0], stop: numbers[1], step: numbers[2] },
        _ => return fail("range expected 1 to 3 arguments"),
    };
    if range.len() > MOST_RANGE {
        return fail(format!(
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MOST_RANGE})."
        ));
    }
    Ok(TemplateValue::Range(Rc::new(range)))
}
