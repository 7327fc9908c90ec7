//! Lists and objects of a row, part by part.

use serde::ser::{self, Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct};
use serde_json::Value;

use super::super::buffer::{ColumnBuffer, Content, FieldBuffers};
use super::{FieldPlace, Pushed, Unstorable, unfit};

/// The items of a list.
pub(super) struct ListPlace<'a> {
    pub(super) list: &'a mut ColumnBuffer,
    /// Repetition levels of the first item and of the others.
    pub(super) first: i16,
    pub(super) again: i16,
    pub(super) any: bool,
}

impl SerializeSeq for ListPlace<'_> {
    type Ok = ();
    type Error = Unstorable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Pushed {
        let Content::List(_, items) = &mut self.list.content else { return Err(unfit("an array")) };
        let repetition = if self.any { self.again } else { self.first };
        self.any = true;
        value.serialize(FieldPlace { buffer: items, repetition })
    }

    fn end(self) -> Pushed {
        if !self.any {
            self.list.push_empty(self.first);
        }
        Ok(())
    }
}

impl ser::SerializeTuple for ListPlace<'_> {
    type Ok = ();
    type Error = Unstorable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Pushed {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Pushed {
        SerializeSeq::end(self)
    }
}

impl ser::SerializeTupleStruct for ListPlace<'_> {
    type Ok = ();
    type Error = Unstorable;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Pushed {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Pushed {
        SerializeSeq::end(self)
    }
}

/// The fields of an object. Those that no column has are left out; of two with one name the first one counts.
pub(super) struct ObjectPlace<'a> {
    pub(super) fields: &'a mut FieldBuffers,
    pub(super) repetition: i16,
    /// The field after the last one: fields mostly come in the order of the columns.
    pub(super) next: usize,
    /// A map's key, until its value comes.
    pub(super) key: Option<String>,
}

impl ObjectPlace<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Pushed {
        let names = &self.fields.names;
        let place = match names.get(self.next) {
            Some(next) if next == name => Some(self.next),
            _ => names.iter().position(|one| one == name),
        };
        let Some(place) = place else { return Ok(()) };
        self.next = place + 1;
        let (Some(filled), Some(buffer)) =
            (self.fields.filled.get_mut(place), self.fields.buffers.get_mut(place))
        else {
            return Ok(());
        };
        if std::mem::replace(filled, true) {
            return Ok(());
        }
        let stored = value.serialize(FieldPlace { buffer, repetition: self.repetition });
        stored.map_err(|error| Unstorable(format!("field {name:?}: {error}")))
    }

    fn finish(self) -> Pushed {
        for (buffer, filled) in self.fields.buffers.iter_mut().zip(&self.fields.filled) {
            if !filled {
                buffer.push_null(self.repetition);
            }
        }
        Ok(())
    }
}

impl SerializeMap for ObjectPlace<'_> {
    type Ok = ();
    type Error = Unstorable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Pushed {
        match serde_json::to_value(key) {
            Ok(Value::String(key)) => self.key = Some(key),
            Ok(other) => self.key = Some(other.to_string()),
            Err(error) => return Err(Unstorable::custom(error)),
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Pushed {
        match self.key.take() {
            Some(key) => self.field(&key, value),
            None => Err(unfit("a value without a key")),
        }
    }

    fn end(self) -> Pushed {
        self.finish()
    }
}

impl SerializeStruct for ObjectPlace<'_> {
    type Ok = ();
    type Error = Unstorable;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Pushed {
        self.field(key, value)
    }

    fn end(self) -> Pushed {
        self.finish()
    }
}
