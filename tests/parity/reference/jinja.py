"""What Jinja, as transformers sets it up for chat templates, prints of some 1,000 small templates, for model/tests/jinja.rs.

Run `python jinja.py > jinja.jsonl` beside it with jinja2 installed (made with jinja2 3.1.6 on CPython 3.11). The environment is
that of transformers 5.23's `_compile_jinja_template`: an immutable sandbox with trim_blocks, lstrip_blocks, loop controls, its
`tojson`, `raise_exception`. A row is [template, text], or [template, null] where Python raises.
"""

import json
import platform

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "<é & 'x'>"},
]

EXPRESSIONS = r"""
none
true
[none, true, 1, 1.5, 'a']
(1, 'a')
(1,)
()
{'a': 1, 'b': [1, (2, 3)], 3: none}
'it\'s'
["it's", 'a"b', 'a\'"b', 'tab\t', 'nl\n', 'back\\', 'é', '\x00\x7f', '\u200b', '\xa0', '😀']
'\x41\u00e9\101\q'
'a' 'b' "c"
1_000 + 0x1f + 0b11 + 0o17
1.5e3
1e16
1e15
1e-5
0.0001
123456789.123456789
1e22
1.0
100.0
-0.0
1/3
2/1
7//2
-7//2
7//-2
7.5//2
7%3
-7%3
7%-3
-7.5%2
7.5%-2
2**10
2**-1
2**0.5
-2**2
2**3**2
10**20
0.1+0.2
1e308*10
true+1
true*3
'a'*3
3*'ab'
'a'*-1
[1]*3
(1,2)*2
[1]+[2]
(1,)+(2,)
'a'+'b'
'a'+1
[1]+(1,)
1+'a'
1/0
1//0
1%0
'a'~1~none~1.0~[1]
1 < 2 < 3
1 < 2 > 5
1 == 1.0 == true
'a' < 'b'
'a' < 1
[1,2] < [1,3]
(1,2) < (1,2,0)
none == none
none < 1
[1] == (1,)
{'a':1} == {'a':1.0}
1 in [1.0]
true in [1]
'a' in 'abc'
1 in 'abc'
'a' in {'a':1}
'b' not in {'a':1}
1 in (1,2)
2 in range(3)
x in [1]
not 1
not none or false
1 and 2
0 or 'a'
'' or [] or 'z'
1 if false
(1 if false) is defined
1 if true else 2
'a' if x else 'b'
x
x.y
x['y']
x + 1
-x
x ~ 'a'
x | length
x | list
x is iterable
x is sequence
x is mapping
x is callable
x is string
x is none
x is number
x == y
x == none
x in 'abc'
x()
x | default('d')
none | default('d')
none | default('d', true)
'' | default('d', boolean=true)
x | d
none.a
none['a']
none | length
(1).a
'abc'.a
'abc'.a.b
[1].a
[1]['a']
[1][5]
[1][-1]
[1,2,3][1:]
[1,2,3][::-1]
[1,2,3][-2:]
[1,2,3][:-1]
[1,2,3][::2]
[1,2,3][5:]
[1,2,3][2:0:-1]
(1,2,3)[1:]
'hello'[1]
'hello'[-1]
'hello'[1:3]
'hello'[::-1]
'héllo'[1:3]
'héllo'[1]
'abc'[10]
'abc'['upper']()
range(5)[2]
range(5)[1:3]
range(10)[::3]
range(3)
range(1,10,3)
range(5,0,-2)|list
range(0)|list
range(100001)
range(1,2,0)
range('a')
{'a':1}.a
{'a':1}['a']
{'a':1}.b
{'a':1}['b']
{1:2}[1]
{1:2}[1.0]
{true:2}[1]
{'items':1}.items
{'items':1}['items']
{'items':1}.items()|list
{'a':{'b':2}}.a.b
{'a':1}.get('a')
{'a':1}.get('b')
{'a':1}.get('b', 3)
{'a':1}.get([1])
{'a':1}.keys()
{'a':1}.values()
{'a':1}.items()
{'a':1}.keys()|list
{'a':1,'b':2}.values()|sum
{'a':1}.pop('a')
{'a':1}.update({'b':1})
{'a':1}.copy()
[1].append(2)
[1,2,1].count(1)
[1,2,1].index(2)
[1,2,1].index(5)
(1,2,1).count(1)
(1,2).index(2)
''.__class__
'a'.__len__()
[].__class__.__name__
1.5.is_integer()
2.0.is_integer()
(5).bit_length()
true is boolean
1 is boolean
1 is integer
true is integer
1.0 is integer
1.0 is float
1 is float
1 is number
true is number
'1' is number
'a' is string
'a' is sequence
[1] is sequence
(1,) is sequence
{'a':1} is sequence
range(3) is sequence
{'a':1}.keys() is sequence
1 is sequence
none is sequence
none is iterable
1 is iterable
'a' is iterable
{'a':1} is iterable
{'a':1}.items() is iterable
{'a':1} is mapping
[1] is mapping
x is defined
x is undefined
none is defined
none is none
1 is odd
2 is even
4 is divisibleby 2
4 is divisibleby(3)
1 is eq 1
1 is equalto 1
1 is ne 2
1 is lt 2
1 is gt 2
1 is le 1
1 is ge 1
1 is lessthan 2
1 is greaterthan 2
1 is in [1,2]
1 is not in [1,2]
'a' is in 'abc'
'abc' is lower
'Abc' is lower
'ABC' is upper
'123' is lower
1 is sameas 1
1 is sameas true
none is sameas none
true is true
1 is true
false is false
'upper' is filter
'foo' is filter
'odd' is test
range is callable
'a'.upper is callable
'a' is callable
'<' is escaped
1 is not none
1 is foo
'a' is string and 1 is number
not 'a' is number
1 is odd and 2 is even or false
-1|abs
(-1.5)|abs
'a'|abs
-2|abs
'hello world'|capitalize
'HELLO'|capitalize
'ß'|capitalize
'a'|center(5)
'ab'|center(5)
'abc'|center(6)
'a'|center|length
[1,2]|count
'abc'|length
1|length
{'b':1,'A':2}|dictsort
{'b':1,'A':2}|dictsort(true)
{'b':1,'a':2}|dictsort(by='value')
{'b':1,'a':2}|dictsort(reverse=true)
'<a href="x">\'&</a>'|e
'<'|escape
1|e
500|filesizeformat
1|filesizeformat
1500|filesizeformat
1500000|filesizeformat
1500|filesizeformat(true)
1e30|filesizeformat
[1,2]|first
''|first
[]|first
[]|last
'abc'|first
'abc'|last
(1,2)|last
range(5)|last
{'a':1,'b':2}|first
{'a':1,'b':2}|last
'1.5'|float
'abc'|float
'abc'|float(2)
'  1e3 '|float
'1_000'|float
none|float
'inf'|float
'nan'|float
'%s-%s'|format(1,'a')
'%d'|format(3.7)
'%5.2f'|format(3.14159)
'%-5s|'|format('a')
'%05d'|format(42)
'%+d'|format(42)
'%x'|format(255)
'%X'|format(255)
'%o'|format(8)
'%#x'|format(255)
'%e'|format(12345.678)
'%g'|format(0.00001)
'%g'|format(1234567)
'%g'|format(100000)
'%r'|format('a')
'%c'|format('a')
'%c'|format(65)
'%%'|format
'%s'|format
'%(a)s'|format(a=1)
'%s %s'|format(1)
'%s'|format(1,2)
'%10.3s|'|format('abcdef')
'%*d'|format(5,3)
'%.3d'|format(5)
'% d'|format(5)
'%i'|format('a')
'%s' % 'a'
'%s %s' % (1, 2)
'%s' % [1]
'%s' % none
'%s' % {'a':1}
'%(a)s' % {'a':1}
'%s'
'%d%%' % 50
'%.2f' % 2
'%5s|%-5s|' % ('a','b')
'abc' % 1
'abc' % ()
'abc' % (1,)
'{}'.format(1)
'{} {}'.format(1,'a')
'{0} {1} {0}'.format(1,'a')
'{a}'.format(a=1)
'{:5}|'.format('a')
'{:>5}|'.format('a')
'{:^5}|'.format('a')
'{:*^5}|'.format('a')
'{:05d}'.format(42)
'{:,}'.format(1234567)
'{:_}'.format(1234567)
'{:.2f}'.format(3.14159)
'{:,.2f}'.format(1234567.891)
'{:e}'.format(12345.678)
'{:g}'.format(1e10)
'{:%}'.format(0.25)
'{:.1%}'.format(0.25)
'{:x}'.format(255)
'{:#x}'.format(255)
'{:b}'.format(5)
'{:+d}'.format(5)
'{:5}|'.format(5)
'{:<5}|'.format(5)
'{:.3}'.format('abcdef')
'{:.3}'.format(3.14159)
'{:.3}'.format(1234.5)
'{:10.3f}|'.format(3.14159)
'{:d}'.format('a')
'{:f}'.format(3)
'{!r}'.format('a')
'{!s:>5}'.format('a')
'{{}}'.format(1)
'{0[a]}'.format({'a':1})
'{0[1]}'.format([1,2])
'{0.a}'.format(1)
'{:{}}|'.format('a',5)
'{'.format(1)
'}'.format(1)
'{2}'.format(1)
'{:5}|'.format(true)
'{}'.format(none)
'{:5}'.format(none)
'{:5}'.format([1])
'{:05.1f}'.format(-2.5)
'{:=+5d}'.format(3)
[{'a':1,'b':2},{'a':1,'b':3}]|groupby('a')
[{'a':'x'},{'a':'X'}]|groupby('a')
[{'a':2},{'a':1}]|groupby('a')|map('first')|list
'a\nb\nc'|indent
'a\nb\n\nc'|indent(2)
'a\nb\n\nc'|indent(2,true)
'a\nb\n\nc'|indent(2,blank=true)
'a\nb'|indent('> ')
'a\nb\n'|indent
''|indent
'42'|int
'42.7'|int
'abc'|int
'abc'|int(5)
'0x1f'|int(base=16)
'ff'|int(0,16)
'1_0'|int
' 7 '|int
3.9|int
-3.9|int
none|int
true|int
'-5'|int
'+5'|int
'1e3'|int
'٣'|int
'٣'.isdigit()
[1]|int
{'a':1}|items|list
x|items|list
[1]|items|list
[1,2]|join
[1,2]|join(', ')
['a',none,1.5]|join('-')
[{'a':1},{'a':2}]|join(',', attribute='a')
'abc'|join('-')
{'a':1,'b':2}|join
x|join
none|join
1|join
['a']|join(none)
'abc'|list
{'a':1}|list
1|list
'ABC'|lower
1|lower
none|upper
['a','b']|map('upper')|list
['a','b']|map('upper')|join
[{'a':1},{}]|map(attribute='a')|list
[{'a':1},{}]|map(attribute='a',default=0)|list
[{'a':{'b':1}}]|map(attribute='a.b')|list
[[1,2]]|map(attribute=0)|list
[1,2]|map('string')|list
['a']|map('foo')|list
[1]|map|list
[1,3,2]|max
[1,3,2]|min
['b','A']|max
['b','A']|min(case_sensitive=true)
[]|max
[{'a':1},{'a':3}]|max(attribute='a')
['a',1]|max
[1,2,3,4]|reject('odd')|list
[0,1,'']|reject|list
[0,1,'',2]|select|list
[1,2,3]|select('gt',1)|list
[1,2,3]|select('in',[1,2])|list
[{'a':1},{'a':0}]|selectattr('a')|list
[{'a':1},{'a':2}]|selectattr('a','eq',2)|list
[{'a':1},{'b':2}]|selectattr('a','defined')|list
[{'a':1},{'b':2}]|rejectattr('a','defined')|list
[{'a':'x'}]|selectattr('a','equalto','x')|map(attribute='a')|first
[1,2,3]|select('odd')|length
[1,2]|map('string')|first
[1,2,3]|select('odd')
none|select|list
1|select|list
x|map('upper')|list
'abc'|replace('b','x')
'aaa'|replace('a','b',2)
'abc'|replace('','-')
1|replace(1,2)
'a1'|replace(1,2)
'abc'|reverse
[1,2,3]|reverse|list
(1,2)|reverse|list
[1,2]|reverse
range(3)|reverse|list
{'a':1,'b':2}|reverse|list
1|reverse
2.5|round
3.5|round
2.675|round(2)
42.55|round(1,'floor')
42.55|round(1,'ceil')
42|round
42|round(2)
1234.5|round(-2)
1234|round(-2)
2.5|round|int
'a'|round
42.1|round(method='ceil')
true|round
'<b>'|safe
[1,2,3,4,5]|slice(2)|list
[1,2,3,4,5]|slice(3,'x')|list
[1,2,3]|batch(2)|list
[1,2,3]|batch(2,'x')|list
[3,1,2]|sort
['b','A','c']|sort
['b','A','c']|sort(case_sensitive=true)
[1,2]|sort(reverse=true)
[{'a':2},{'a':1}]|sort(attribute='a')
[{'a':1,'b':2},{'a':1,'b':1}]|sort(attribute='a,b')
['a',1]|sort
'cab'|sort
{'b':1,'a':2}|sort
1|string
none|string
'a'|string
[1,'a']|string
1.0|string
'<b>a</b>  c <!-- x --> &amp;'|striptags
[1,2]|sum
[1.5,2]|sum
[{'a':1},{'a':2}]|sum(attribute='a')
[1]|sum(start=10)
['a']|sum
[[1],[2]]|sum(start=[])
"it's a test"|title
'hello world'|title
'foo-bar (baz) [qux]'|title
'ABC dEF'|title
"it's a test".title()
'a1b c'.title()
{'a':1}|tojson
{'a':[1,none,true,1.5,'é"\n']}|tojson
{'b':1,'a':2}|tojson(sort_keys=true)
{'a':[1,{'b':2}]}|tojson(indent=2)
[1,2]|tojson(separators=(',',':'))
{'a':1}|tojson(separators=(',',':'))
'é😀'|tojson(ensure_ascii=true)
(1,2)|tojson
{1:2,none:3,true:4,1.5:5}|tojson
x|tojson
none|tojson
1e16|tojson
1.0|tojson
'</script>'|tojson
'\x7f\x08\x0c\x1f/'|tojson
[]|tojson(indent=2)
{}|tojson(indent=2)
[[]]|tojson(indent=4)
{'a':1}|tojson(indent='--')
range(3)|tojson
{'a':1}.items()|tojson
{'a':1}.items()|list|tojson
'  a '|trim
'xxaxx'|trim('x')
1|trim
'hello world foo'|truncate(9)
'hello world foo'|truncate(9,true)
'hello world foo'|truncate(10,false,'..',0)
'hello'|truncate(3)
'hello world'|truncate(2)
'hello world foo bar'|truncate(10,leeway=0)
'hello world foo bar'|truncate(255)
1|truncate
[1,2,1]|unique|list
['a','A']|unique|list
['a','A']|unique(true)|list
[{'a':1},{'a':1}]|unique(attribute='a')|list
'abc'|upper
'ß'|upper
'a b/c?d=é'|urlencode
{'a b':1,'c':'d/e'}|urlencode
[('a',1)]|urlencode
'hello big world'|wordcount
'hello big world'|wordwrap(8)
'aaaaaaaaaa bb'|wordwrap(4)
'aaaaaaaaaa bb'|wordwrap(4,false)
'a-b well-known'|wordwrap(6)
{'class':'a','id':none}|xmlattr
{'a':1}|attr('a')
'a'|attr('upper')
'abc'|foo
1|foo
{'a':1}|pprint
'abc'.upper()
'ABC'.lower()
'abc'.capitalize()
'aBc'.swapcase()
'ß'.casefold()
' a '.strip()
' a '.lstrip()
' a '.rstrip()
'xxaxx'.strip('x')
'abcba'.strip('ab')
'\n\t a\x0b'.strip()
'a'.strip(none)
'a,b,c'.split(',')
'a,b,c'.split(',', 1)
'a,b,c'.split(',', maxsplit=1)
' a  b '.split()
' a  b c '.split(none, 1)
'a b c'.rsplit(none, 1)
'a,b,c'.rsplit(',', 1)
''.split()
''.split(',')
'abc'.split('')
'a\nb\r\nc'.splitlines()
'a\nb\n'.splitlines(true)
''.splitlines()
','.join(['a','b'])
','.join([1])
','.join('abc')
'abc'.startswith('a')
'abc'.startswith(('x','a'))
'abc'.endswith('c')
'abc'.startswith('b', 1)
'abc'.endswith('b', 0, 2)
'abcabc'.find('c')
'abcabc'.find('c', 3)
'abcabc'.find('x')
'abcabc'.rfind('c')
'abcabc'.index('b')
'abcabc'.index('x')
'abcabc'.rindex('b')
'héé'.find('é')
'abcabc'.count('bc')
'aaa'.count('aa')
'abc'.count('')
'abc'.replace('b','x')
'aaa'.replace('a','b',1)
'abc'.replace('','-')
'42'.zfill(5)
'-42'.zfill(5)
'a'.center(5,'*')
'a'.ljust(3)~'|'
'a'.rjust(3)
'ab'.center(5)
'abc'.isdigit()
'123'.isdigit()
'²'.isdigit()
'²'.isdecimal()
'½'.isnumeric()
'abc'.isalpha()
'abc1'.isalnum()
''.isalpha()
'abc'.islower()
'ABC'.isupper()
'Abc Def'.istitle()
' '.isspace()
'abc'.isidentifier()
'abc'.isascii()
'a\n'.isprintable()
'a=b=c'.partition('=')
'a=b=c'.rpartition('=')
'abc'.partition('=')
'abc'.removeprefix('a')
'abc'.removesuffix('c')
'a\tb'.expandtabs(4)
'{a}'.format_map({'a':1})
'abc'.foo()
'a'.upper(1)
'a'.join(1)
'a'.startswith(1)
namespace(a=1).a
namespace(a=1).b
namespace({'a':2}).a
namespace(a=1)
namespace(a=1)['a']
dict(a=1)
dict({'a':1}, b=2)
dict([('a',1)])
cycler(1,2).next()
cycler('a','b').current
joiner()
raise_exception('no')
lipsum
messages[0]
messages|length
messages[-1].content
messages[0]['role']
messages|map(attribute='role')|join(',')
messages|selectattr('role','equalto','user')|list|length
messages|last
messages[1:]|map(attribute='content')|list
(messages|selectattr('role','eq','user')|list)[-1].content
messages[0].name
messages[0].name is defined
messages[0].get('name')
messages[0].items()|list
messages[0].keys()|list
'user' in messages|map(attribute='role')
messages|tojson
messages is string
messages is sequence
messages is iterable and messages is not string and messages is not mapping
tools
tools is none
tools is iterable
tools is defined and tools
add_generation_prompt
bos_token
pad_token
pad_token is defined
1,2
(1,2)|length
[1,2,]
{'a':1,}
[[1,2],[3]]|map('length')|list
[[1,2],[3]]|sum(start=[])
[1,[2,[3]]]|string
1.5|string ~ 'a'
3.0|int|string
'a' ~ 1.0
10|string|length
'%s' % 1.0
'%s' % true
[1.0,2.50]
-1
- 1
+1
not true
--1
1 - -1
1-1
'a'|upper|lower|length
('a'|upper)
(1)
((1,2),3)
[x]
{'a':x}
[x,1]|join(',')
x|string
x|upper
x|trim
x|replace('a','b')
x|int
x|float
x|first
x|sort
x|tojson
x.a is defined
x is defined and x.a
(x or {}).a
(x|default({})).a
messages[10]
messages[10].content
messages['a']
messages.a
none is sameas false
[1,2] is sameas [1,2]
[] is false
'' == none
0 == false
'1' == 1
1 != 2
1 <= 1.0
'b' > 'a'
1.5 is lt 2
2 ** 63
2 ** 100
10 // 0.3
1e3|int
'a\\b'
'\'"'
'a'|indent(width=2,first=true)
[3,1]|sort|first
['x']|first|upper
'A'.lower().upper()
'abc'[::2]
'abc'[-100:100]
[1,2,3][true]
'abc'[1.0]
{'a':[1,2]}.a[0]
{'a':[1,2]}['a'][-1]
{(1,2):3}[(1,2)]
{[1]:2}
range(3)|sum
range(3)|join(',')
range(3)|length
range(2)==range(2)
'a,b'.split(',')|first
('a','b')|join
' '.join(['a','b']|map('upper'))
'abc'|batch(2)|list
'abc'|slice(2)|list
"%s" | format("<x>")
'x'.__mul__(3)
'a' if 1 else 'b' if 2 else 'c'
1 if 0 else 2 if 0 else 3
(true and none) is none
1 or x.y
false and x.y
'é'|upper
'É'.lower()
'ΑΣ'.lower()
'ǆ'.title()
'a'.lower(1)
'½'.isdigit()
'٣٤'|int + 1
'١.٥'|float
[3,1,2]|sort|reverse|list
'%s'|format('é')
'{0.real}'.format(1)
'{a[0]}{b}'.format(a=[1],b=2)
{'a':1}|length
'a-b_c d'|title
'ab' < 'abc'
[1,2,3]|batch(0)|list
[]|batch(2)|list
'abc'|first|upper
-7 // 2 * 2 + -7 % 2
1.5 // 0.5
5 % -3
-5 % 3
5.5 % 2
1e100
1e-100
123456789012345678
0.1
1/7
2.0**0.5
10**15
10.0**15
10.0**16
1.0e0
'%.3f' % 1e10
'%.10g' % 0.1
'%10.4g|' % 3.14159
'{:>10.2e}|'.format(12345.678)
'{:08.3f}'.format(-3.14159)
'{:+.1f}'.format(2.25)
'{:.0f}'.format(0.5)
'{:.0f}'.format(1.5)
'%.0f' % 2.5
'{:n}'.format(5)
'{:c}'.format(65)
'{:,}'.format(1234.5)
'{:s}'.format('x')
'{:10s}|'.format('é')
'%5s|' % 'é'
1.15|round(1)
1.25|round(1)
-1.5|round
0.5|round
1e20|round
7|round(-1)
15|round(-1)
25|round(-1)
'ﬁ'.upper()
'İ'.lower()|length
"a" "b"
'a'.isupper() or 'A'.isupper()
""" .strip("\n").split("\n")

TEMPLATES = [
    "a{% if true %}\nb{% endif %}\nc\n",
    "  {% if true %}  \n  b\n  {% endif %}\n",
    "a  {%- if true -%}  b  {%- endif -%}  c",
    "a\n  {%+ if true %}b{% endif %}",
    "{% if true +%}\nb{% endif %}",
    "a {# c #}\nb",
    "  {# c #}\nb",
    "a\n  {#- c -#}  \n b",
    "a\n  {#+ c +#}\n b",
    "{{ 1 }}\n{{ 2 }}\n\n",
    "  {{ 1 }}  ",
    "  {{- 1 -}}  ",
    "a\n\n{{- 1 }}",
    "{% raw %}{{ x }}{% endraw %}\n.",
    "{%- raw -%} {{ x }} {%- endraw -%} .",
    "  {% raw %}\n a {% endraw %}\n.",
    "x\n  {% raw %} a\n  {% endraw %}\n.",
    "a\r\nb\rc{{ '\r\n' }}d\r\n",
    "\n{{ 1 }}\n",
    "{% set a = 1 %}\n{% set b = 2 %}\n{{ a }}{{ b }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set (a, b) = (1, 2) %}{{ a }}{{ b }}",
    "{% set a, b = [1] %}{{ a }}",
    "{% set a = 1, %}{{ a }}",
    "{% set x %}a{{ 1 }}b{% endset %}{{ x }}|{{ x | length }}",
    "{% set x | upper %}abc{% endset %}{{ x }}",
    "{% set x | replace('a', 'b') | upper %}abc{% endset %}{{ x }}",
    "{% set x | trim %}\n abc \n{% endset %}[{{ x }}]",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}",
    "{% filter replace('a', 'x') | upper %}ab{% endfilter %}",
    "{% for i in [1,2,3] %}{{ i }}{% endfor %}",
    "{% for i in [1,2,3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for i in [1,2,3] %}{{ loop.previtem }}|{{ loop.nextitem }} {% endfor %}",
    "{% for i in [1,2,3] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for i in [1,2,3] %}{{ loop.cycle('a','b') }}{% endfor %}",
    "{% for i in [1,1,2] %}{{ loop.changed(i) }}{% endfor %}",
    "{% for i in [] %}a{% else %}b{% endfor %}",
    "{% for i in [1] %}a{% else %}b{% endfor %}",
    "{% for i in [1,2,3] if i is odd %}{{ i }}{{ loop.index }}{{ loop.last }}{% endfor %}",
    "{% for i in [1,2,3] if i > 5 %}{{ i }}{% else %}none{% endfor %}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}",
    "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}",
    "{% for k, v in {'a': 1} | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "{% for c in 'abc' %}{{ c }}.{% endfor %}",
    "{% for i in 5 %}{% endfor %}",
    "{% for i in none %}{% endfor %}",
    "{% for i in x %}a{% endfor %}b",
    "{% for a, b in [[1, 2], (3, 4)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [[1]] %}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(2) %}{{ loop.index }}{{ loop.depth }}{% endfor %}{% endfor %}",
    "{% for i in range(3) %}{% set outer = loop %}{% for j in range(2) %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for i in [1, [2, [3]]] recursive %}{% if i is iterable %}({{ loop(i) }}){% else %}{{ i }}@{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{% break %}{% else %}e{% endfor %}",
    "{% for i in range(3) %}{% continue %}{% else %}e{% endfor %}",
    "{% for i in range(3) %}{% if i == 1 %}{% break %}{% endif %}{% else %}e{% endfor %}",
    "{% for g in [{'t': 'b'}, {'t': 'A'}] | groupby('t') %}{{ g }}{{ g[0] }}{{ g.x is defined }}{% endfor %}",
    "{% set a = 1 %}{% for i in [1] %}{% if true %}{% set a = 2 %}{% endif %}{{ a }}{% endfor %}{{ a }}",
    "{% macro f(x) %}{{ caller(x) if caller is defined else 'n' }}{% endmacro %}{{ f(1) }}{% call(y) f(2) %}{{ y }}{% endcall %}",
    "{% set x %}{% for i in range(3) %}{{ i }}{% endfor %}{% endset %}{{ x | int + 1 }}",
    "{% for m in messages %}{{ loop.index0 % 2 == 0 }}{{ (m.role == 'user') != (loop.index0 % 2 == 0) }}{% endfor %}",
    "{% filter indent(2) %}a\nb{% endfilter %}",
    "{%- if a is defined and a -%}x{%- else -%}y{%- endif -%}",
    "{% with a = 1 %}{% set b = a + 1 %}{{ b }}{% endwith %}{{ b is defined }}",
    "{% for x, y in [(1, 2), (3, 4)] if x > 1 %}{{ x }}{{ y }}{{ loop.length }}{% endfor %}",
    "{{ '\\n' }}{{ '\\\\n' }}",
    "{% raw %}{% endraw %}{% raw -%}\n x {%- endraw %}",
    "{# a #}{#- b -#} \n{{ 1 }}",
    "{% if true %}\n\n x\n{% endif %}\n\ny",
    "\t{% if true %}x{% endif %}\t\n\t{{ 1 }}",
    "{% set x = 0 %}{% for i in range(3) %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=0) %}{% for i in range(3) %}{% set ns.x = ns.x + 1 %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b is defined }}{{ ns }}",
    "{% set d = {} %}{% set d.a = 1 %}",
    "{% set x.a = 1 %}",
    "{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% if false %}a{% elif 1 %}b{% else %}c{% endif %}",
    "{% if x %}a{% else %}b{% endif %}",
    "{% if 1, %}a{% endif %}",
    "{% with a = 1 %}{{ a }}{% endwith %}{{ a }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}",
    "{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}",
    "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}",
    "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=1, a=2) }} {{ f() }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(c=2) }}",
    "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, a=3) }}",
    "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}",
    "{% macro f() %}{{ y }}{% endmacro %}{% set y = 5 %}{{ f() }}",
    "{% set y = 1 %}{% macro f() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ f() }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}x{% endcall %}",
    "{% macro f() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) f() %}{{ a + b }}{% endcall %}",
    "{% macro f() %}a{% endmacro %}{% call f() %}x{% endcall %}",
    "{% macro f() %}{{ caller }}{% endmacro %}{{ f() }}",
    "{% macro f(a) %}{% endmacro %}{{ f.name }}{{ f.arguments }}{{ f }}",
    "{% macro f() %} a {% endmacro %}{{ f() | trim | length }}{{ f() is string }}",
    "{% macro f(x) -%}\n  {{ x }}\n{%- endmacro %}[{{ f(1) }}]",
    "{% macro g() %}{{ h() }}{% endmacro %}{% macro h() %}h{% endmacro %}{{ g() }}",
    "{% for i in range(2) %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}",
    "{% block a %}x{{ 1 }}{% endblock %}",
    "{% block a %}x{% endblock a %}y",
    "{% generation %}x{% endgeneration %}\ny",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% autoescape true %}a{% endautoescape %}",
    "{% print 1, 2 %}",
    "{% do 1 %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% foo %}",
    "{% if %}a{% endif %}",
    "{% if 1 %}a",
    "{{ 1",
    "{{ }}",
    "{{ 1 2 }}",
    "{{ 'a }}",
    "{% endif %}",
    "{{ (1 }}",
    "{{ [1) }}",
    "{% break %}",
    "{# a",
    "{% raw %} a",
    "{{ 1 is is }}",
    "{{ a.1b }}",
    "{{ f(a=1, 2) }}",
    "{{ {'a': 1 'b': 2} }}",
    "{{ 'a' | }}",
    "{{ a! }}",
    "{% set true = 1 %}",
    "{% for true in [1] %}{% endfor %}",
    "a { b } c {d}",
    "{ {",
    "}}",
    "%}",
    "{{ '}}' }}{{ '%}' }}",
    "{{ {'a': {'b': 1}}}}",
    "{{ {'a': {'b': 1}} }}",
    "{%set a=1%}{{a}}",
    "{%-set a=1-%}{{-a-}}",
    "{% if not x is defined %}a{% endif %}",
    "{% if 'a' not in ['b'] %}a{% endif %}",
    "{% set j = joiner('|') %}{{ j() }}a{{ j() }}b{{ j() }}c",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}",
    "{% set g = [1,2,3] | map('string') %}{{ g | list }}{{ g | list }}",
    "{% set g = [1,2,3] | reverse %}{% for i in g %}{{ i }}{% endfor %}{{ g | list }}",
    "{{ loop }}",
    "{% for i in [1] %}{{ loop }}{% endfor %}",
    "{% set a = 'x' %}{% set f %}{{ a }}{% set a = 'y' %}{% endset %}{{ f }}{{ a }}",
    "{% set d = dict(a=1) %}{% for k, v in d | items %}{{ k }}={{ v }}{% endfor %}",
    "{% for g in [{'t': 'a', 'n': 1}, {'t': 'b', 'n': 2}, {'t': 'a', 'n': 3}] | groupby('t') %}{{ g.grouper }}:{{ g.list | map(attribute='n') | list }};{% endfor %}",
    "{% for t, l in [{'t': 'a'}] | groupby('t') %}{{ t }}{{ l }}{% endfor %}",
    "{% set x = messages | map(attribute='content') | list %}{{ x }}",
    "{%- for m in messages -%}\n{{ m.role }}: {{ m.content }}\n{% endfor -%}\nend",
    "{% for m in messages %}\n    {%- if m.role == 'user' %}\n        {{- '<u>' + m.content + '</u>' }}\n    {%- endif %}\n{%- endfor %}",
    "{% if tools is iterable and tools | length > 0 %}T{% endif %}{{ messages[0].content }}",
    "{{ messages[0] | items | list }}",
    "{% set m = messages[0] %}{{ m.role is string }}{{ m is mapping }}{{ m['x'] is undefined }}",
    "{% for x in (1, 2) %}{{ x }}{% endfor %}",
    "{% for x in 1, 2 %}{{ x }}{% endfor %}",
    "{{ 'a' if messages is string else 'b' }}",
    "{% set a = [] %}{% set a = a + [1] %}{% set a = a + [2] %}{{ a }}",
    "{% set a = [] %}{{ a.append(1) }}",
    "{% set a = {} %}{{ a.update({'x': 1}) }}",
    "{{ [1, 2] is sequence and 'abc' is sequence }}",
    "{{ f'x' }}",
    "{{ 1 if 1 }}{{ 1 if 0 }}",
    "{{ (1 if 0).a }}",
    "{{ messages | tojson(indent=2) }}",
    "{{ 'x' * 3 }}{{ '=' * (2 + 3) }}",
    "{{ \"a\\nb\" }}",
    "{% set s = 'abc' %}{{ s[0] }}{{ s[-1:] }}{{ s[:2] }}",
    "{% set n = 0 %}{% for m in messages %}{% if m.role == 'user' %}{% set n = n + 1 %}{% endif %}{% endfor %}{{ n }}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }} {% endfor %}",
    "{% set ns = namespace(go=true) %}{% for i in [1, 2, 3] if ns.go %}{{ i }}{% if i == 2 %}{% set ns.go = false %}{% endif %}{% endfor %}",
    "{% macro m(x, y='d', *z) %}{% endmacro %}",
    "{{ range(3) | map('string') | join('-') }}",
    "{{ caller }}",
    "{% set _ = 1 %}{{ _ }}",
    "{{ not_there.attr }}",
    "{% if not_there.attr %}a{% endif %}",
    "{{ messages[0].content.split('i')[0] }}",
    "{{ messages[0]['content'] | trim }}",
    "{{ '' }}{{ none }}",
    "a{{ '\\n' }}b",
    "{% for i in range(2) -%} {{ i }} {%- endfor %}",
    "{{ f(*[1]) }}",
    "{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ f(*[1], **{'b': 2}) }}{{ f(1, *(2,)) }}",
    "{{ dict(**{'a': 1}) }}",
    "{{ '%s' | format(*[1]) }}",
    "{{ [1,2,3] | map('multiply', 2) | list }}",
    "{{ messages | map('tojson') | join }}",
    "{{ ['a', 'b'] | map('replace', 'a', 'x') | list }}",
    "{{ [1, 2] | map('default', 0) | list }}",
    "{% set x = 'a' %}{% for i in [1] %}{{ x }}{% set x = 'b' %}{{ x }}{% endfor %}{{ x }}",
    "{% for i in [1, 2] %}{{ x }}{% set x = i %}{% endfor %}",
]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

        @jinja2.pass_eval_context
        def _support(self, context, caller):
            return caller()

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    return made


def rendered(template):
    values = dict(messages=MESSAGES, add_generation_prompt=True, tools=None, documents=None, bos_token="<s>", eos_token="</s>")
    try:
        return environment().from_string(template).render(**values)
    except Exception:
        return None


def main():
    templates = ["{{ " + line + " }}" for line in EXPRESSIONS] + TEMPLATES
    rows = []
    for template in dict.fromkeys(templates):
        text = rendered(template)
        # An address is another in every run.
        if text is None or " at 0x" not in text:
            rows.append([template, text])
    print(json.dumps({"jinja2": jinja2.__version__, "python": platform.python_version()}))
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
