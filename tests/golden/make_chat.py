"""Goldens of chat templates: what transformers renders, and what jinja2 makes of small pieces of the language.

Writes tests/golden/data/chat/:
  conversations.json   templates, conversations, and per case the template, the conversation, the other variables and the text (or the error)
  language.json        variables, and per snippet the text or "error"

Templates: those of Qwen3, Llama 3, Gemma 3 (tokenizer_config.json) and SmolLM2 (tokenizer.chat_template of its GGUF), copied from the
models, and so are those of Phi-4-mini and Mistral Small 3, which stand below; the others are written here in the manner of the families they are named after, with the constructs those use.

Run: python tests/golden/make_chat.py QWEN3.json LLAMA3.json GEMMA3.json SMOLLM2.gguf     (transformers, jinja2, gguf)
     the first three are tokenizer_config.json files
Sources: transformers.utils.chat_template_utils.render_jinja_template; jinja2's ImmutableSandboxedEnvironment under it.
"""
import datetime, json, pathlib, sys

import gguf
import jinja2
import transformers
import transformers.utils.chat_template_utils as reference

OUT = pathlib.Path(__file__).parent / "data" / "chat"


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 31, 12, 34, 56)


# ---- the language ------------------------------------------------------------------------------------------------------------

VARS = dict(s="Hello World",
            e="", u="Grüße ß ǆ Ⅷ 日本 🎉", n=7, z=0, neg=-3, f=2.5, t=True, fa=False, no=None, l=[3,1,2], ls=["b","A","c"],
            em=[], d={"b":1,"a":{"x":[1,2]},"items":5}, dd={},
            ms=[{"role":"user","content":"q","k":2},{"role":"tool","content":"","k":1},{"role":"user"}],
            big=9007199254740993, w="  a b\n\tc  ", q="it's \"x\" <b>&\\", mixed=[1,"1",1.0,None,True])

# printed with {{ }}
EXPRESSIONS = r'''
s|upper
s|lower
s|title
u|title
u|upper
u|capitalize
u|lower
w|trim
w|trim|length
'xxaxx'|trim('x')
s|replace('l','L')
s|replace('l','L',1)
s|length
u|length
l|length
n|length
no|length
x|length
l|first
l|last
em|first
em|last
d|first
d|last
s|first
s|last
l|join
l|join(', ')
ms|join(',',attribute='role')
ms|map(attribute='role')|list
ms|map(attribute='k',default=9)|list
ms|map('length')|list
ls|map('upper')|join
ls|map('replace','A','Z')|list
ms|selectattr('k')|list
ms|selectattr('role','equalto','user')|list|length
ms|selectattr('k','defined')|map(attribute='k')|list
ms|rejectattr('k','eq',2)|list
l|select('odd')|list
l|reject('odd')|list
l|select|list
[0,1,'']|reject|list
l|select('gt',1)|list
l|select('>=',2)|list
l|sort
l|sort(reverse=true)
ls|sort
ls|sort(case_sensitive=true)
ms|selectattr('k','defined')|sort(attribute='k')|map(attribute='k')|list
mixed|sort
mixed|unique|list
['a','A','b']|unique|list
['a','A']|unique(case_sensitive=true)|list
l|reverse|list
s|reverse
d|reverse|list
l|min
l|max
ls|min
ls|max
em|min
l|sum
ms|selectattr('k','defined')|sum(attribute='k')
l|sum(start=10)
[1.5,2]|sum
n|abs
neg|abs
f|abs
s|abs
f|round
3.5|round
n|round
2.675|round(2)
1234.5|round(-2)
15|round(-1)
25|round(-1)
f|round(method='ceil')
f|round(0,'floor')
2.123|round(2,'ceil')
n|round(1,'floor')
f|round(method='x')
'3'|int
'3.7'|int
'x'|int
'x'|int(5)
'0x1f'|int(base=16)
'ff'|int(0,16)
'0b11'|int(0,2)
'1_000'|int
' 5 '|int
no|int
f|int
t|int
l|int
x|int
'3'|float
'x'|float
'1e3'|float
'inf'|float
'nan'|float
'inf'|int
no|float(1.5)
x|float
l|string
no|string
d|string
f|string
u|string
l|list
s|list
d|list
d|items|list
x|items|list
l|items|list
d|dictsort
d|dictsort(true)
{'b':2,'A':1}|dictsort
{'b':2,'A':1}|dictsort(true)
{'b':2,'a':1}|dictsort(by='value')
{'b':2,'a':1}|dictsort(reverse=true)
{'b':2}|dictsort(by='z')
x|default('D')
x|default
e|default('D')
e|default('D',true)
no|default('D')
no|d('D',boolean=true)
x.y
x.y|default('D')
d.zz|default('D')
d.zz.yy|default('D')
q|e
q|escape
q|safe
q|e|e
q|forceescape
'<'|safe+'<'
'<'+'<'|safe
'a\nb\n\nc'|indent
'a\nb\n\nc'|indent(2,true)
'a\nb\n\nc'|indent(2,true,true)
'a\nb'|indent('>')
''|indent(first=true)
no|indent
w|wordcount
u|wordcount
s|center(21)
s|truncate(5)
s|truncate(5,leeway=0)
s|truncate(8,true,leeway=0)
s|truncate(8,leeway=0,end='~')
l|batch(2)|list
l|batch(2,'-')|list
l|slice(2)|list
l|slice(2,'-')|list
ms|groupby('role')|list
ms|groupby('k',default=0)|list|length
'%s-%d'|format('a',3)
'%(x)s'|format(x=3)
'%5.2f|%-5s|%05d|%x|%e|%g|%r|%c|%%'|format(3.14159,'a',-42,255,12345.678,0.0001,'q','z')
'%s %s'%(1,2)
'%s'%l
'%s'%s
'%d'%'x'
'%s'%(1,2)
'{} {}'.format(1,2)
'{0}{1}{0}'.format('a','b')
'{x}'.format(x=3)
'{:>5}|{:<5}|{:^5}|{:*^7}'.format('a','b','c','d')
'{:05d}|{:+d}|{:x}|{:#x}|{:b}|{:,}'.format(3,4,255,255,5,1234567)
'{:.2f}|{:e}|{:g}|{:%}|{:8.3f}'.format(1.5,1.5,1.5,.5,2.5)
'{!r}'.format('a')
'{0[x]} {0.y}'.format({'x':1})
'{'.format()
'{}'.format()
l|tojson
d|tojson
d|tojson(indent=2)
d|tojson(indent=0)
ms|tojson
u|tojson
u|tojson(ensure_ascii=true)
q|tojson
f|tojson
1e100|tojson
no|tojson
x|tojson
(1,2)|tojson
{1:2,none:3,true:4,1.5:5}|tojson
d|tojson(sort_keys=true)
d|tojson(separators=(',',':'))
d|tojson(indent='\t')
em|tojson(indent=2)
dd|tojson(indent=2)
range(3)|tojson
'\x00\x1f\x7f\u2028'|tojson
d|attr('b')
ms|nope
1|nope
x
no
t
fa
n
f
s
l
d
em
dd
(1,)
()
(1,2)
u
[u]
[q]
['\n\t\\\x00\x7f\xa0\u200b\U0001f389']
["it's"]
['"']
[7.120236347223045e-307,5e-324,1.7976931348623157e308,2.0**-1000]
'%s'%x
[1.0,1e16,1e15,1e-5,0.0001,123456789.123,1e22,-0.0,0.1,1/3]
{'a':[1,{'b':none}]}
[x]
{1:x}
1e400
-1e400
range(3)
range(1,5,2)
range(5)[1:3]
range(5)|list
range(5,0,-2)|list
range(0)
range(1,2,0)
range(200000)
range('a')
namespace(a=1).a
namespace({'a':1},b=2).b
dict(a=1)
dict({'x':1},a=2)
dict([('a',1)])
dict(1)
d.items()
d.keys()
d.values()
d.items()|list
d['items']
d.get('b')
d.get('z')
d.get('z',3)
d['z']
d.z is defined
d.b is defined
d.update({})
d.update is defined
l.append(1)
l.append is defined
l.index(1)
l.index(9)
l.count(1)
l.copy()
s.upper()
s.split()
s.split('o')
s.split('o',1)
s.rsplit('o',1)
w.split()
w.split(none,1)
' a  b '.rsplit(none,1)
s.split('')
s.strip('Hd')
s.lstrip('He')
s.rstrip('dl')
s.startswith('Hel')
s.startswith(('x','H'))
s.startswith('l',2)
s.endswith('ld')
s.endswith('o',0,5)
s.find('o')
s.find('o',5)
s.find('zz')
s.rfind('o')
s.index('zz')
s.count('l')
s.count('')
'aaa'.count('aa')
s.replace('o','0')
s.replace('','-')
s.replace('o','0',1)
s.title()
"it's a3b".title()
u.title()
u.capitalize()
u.upper()
u.lower()
u.casefold()
u.swapcase()
'a\nb\r\nc\x0bd'.splitlines()
'a\nb\n'.splitlines(true)
'-'.join(['a','b'])
'-'.join([1])
'-'.join('abc')
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'abc'.partition('x')
'abc'.rpartition('x')
s.removeprefix('Hell')
s.removesuffix('rld')
'7'.zfill(3)
'-7'.zfill(4)
'a'.center(4)
'ab'.center(5,'*')
'a'.ljust(3,'.')
'a'.rjust(3)
'a\tb'.expandtabs(4)
'abc'.isalpha()
'ab1'.isalnum()
'12'.isdigit()
'²'.isdigit()
'²'.isdecimal()
'½'.isnumeric()
' '.isspace()
''.isspace()
'Ab'.istitle()
'AB'.isupper()
'ab1'.islower()
'a_1'.isidentifier()
s.nope()
s.nope
s.__class__
s.__class__()
no.x
no.x.y
no['x']
''.join(l|map('string'))
1+2
1-2
2*3
7/2
7//2
-7//2
7%3
-7%3
7%-3
2**10
2**-1
2**0.5
2**3**2
-2**2
1.5+1
1.0//0.3
-1.5%1
1/0
1//0
1%0
1.0/0
'a'+'b'
'a'+1
'a'~1
1~2
none~x
'a'*3
3*'a'
'a'*-1
[1]+[2]
[1]*2
(1,)+(2,)
[1]+(2,)
[1]-[1]
x+1
1+x
-x
not x
-'a'
+3
-true
t+t
9223372036854775807
-9223372036854775807-1
big+0.0
big==9007199254740992.0
1==1.0
1==true
'1'==1
none==x
x==x
[1]==[1]
[1]==(1,)
{'a':1}=={'a':1.0}
1<2
1<2<3
1<3<2
3>2>=2
'a'<'b'
'a'<1
[1,2]<[1,3]
none<1
x<1
1 in l
4 in l
4 not in l
'ell' in s
1 in s
'b' in d
'z' in d
1 in none
1 in x
x in l
t and fa
t or fa
e or 'y'
e and 'y'
not t
not e
1 if t
1 if fa
(1 if fa) is defined
1 if fa else 2
1 if fa else 2 if fa else 3
t is true
fa is false
n is true
1 is true
n is number
t is number
f is float
n is integer
t is integer
t is boolean
s is string
l is string
l is iterable
s is iterable
n is iterable
x is iterable
l is sequence
d is sequence
d is mapping
l is mapping
n is sequence
no is none
x is none
x is undefined
x is defined
s is not string
n is odd
n is even
n is divisibleby 7
n is divisibleby(2)
s is lower
s is upper
'ab' is lower
n is eq 7
n is equalto(7)
n is ne 7
n is gt 3
n is lt 3
n is ge 7
n is le 6
n is greaterthan 6
n is lessthan 9
n is in l
3 is in l
n is sameas 7
no is sameas none
range is callable
s is callable
q|e is escaped
'upper' is filter
'nope' is filter
'odd' is test
s is nope
not n is odd
n is odd and t
n is not odd or t
s is string is true
x.y is defined
x is odd
'a' is odd
l[0]
l[-1]
l[5]
l['a']
l[1:]
l[:2]
l[::-1]
l[1:1]
l[-2:]
l[::2]
l[::0]
l[10:]
l[-10:2]
s[1:4]
s[::-1]
s[-3:]
u[2]
u[1:3]
s[99]
s['a']
d[1:2]
n[1:2]
n[0]
d['b']
d[['a']]
{}[none]
{none:1}[none]
{1:2}[true]
{1:2}[1.0]
(1,2)[0]
l.0
d.a.x.1
d.a['x'][0]
[1,2,3,][1]
{'a':1,}.a
{'a':1,'a':2}
'a' 'b'
"\\u00e9\\n\\t\\x41\\101"
'\\q'
1_000
0x1F
0b101
0o17
1e3
1.5e-3
1_0.5
007
true
True
None
(1)
(1,)
1,2
()
[]
{}
[[1,2],[3]]|map('sum')|list
l|map('string')|join('-')
ms|map('nope')|list
l|select('nope')|list
em|map('nope')|list
x|map('upper')|list
no|map('upper')|list
n|map('upper')|list
l|join(1)
x|join
n|join
[x]|join('-')
[no,t]|join('-')
x|upper
no|upper
no|trim
n|trim
n|replace(7,8)
x|replace('a','b')
x|reverse|list
n|reverse
x|list
n|list
x|sort
x|first
x|last
x|length
x|sum
x|unique|list
x|tojson
l|map|list
(l|map('abs'))|last
(l|map('abs'))|first
(l|map('abs'))|length
(l|map('abs'))[0]
l|map('abs') is iterable
l|map('abs') is sequence
l|reverse|first
l|reverse|last
s|default(x)
raise_exception('boo')
raise_exception(1)
raise_exception()
caller()
varargs
loop
super()
'''.strip().split("\n")

# whole templates; \n is a line break
STATEMENTS = r'''
{{ 'a' if fa }}
{{ }}
{{ 1 }
{% if %}
{% if t %}a
{% endif %}
{{ 1 + }}
{{ (1 }}
{{ 'a }}
{% nope %}
{% set %}
{% set a %}
{% set 1 = 2 %}
{% set true = 1 %}
{% for in l %}{% endfor %}
{% for a b in l %}{% endfor %}
{# x
{% raw %}a
{% raw %}{{ x }}{% endraw %}
{%- raw -%} {{ x }} {%- endraw -%} z
a{# c #}b
a {#- c -#} b
  {# c #}\nb
{{ 1 }}\n
{% if t %}\na\n{% endif %}\nb
  {% if t %}  \n  a\n  {% endif %}  \nb
  {%+ if t %}a{% endif %}
{% if t +%}\na{% endif %}
{%- if t -%}  a  {%- endif -%}  b
a\n  {{- 1 -}}\nb
a {{ 1 }} b
{% for i in l %}{{ i }}{% endfor %}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}|{% endfor %}
{% for i in em %}a{% else %}b{% endfor %}
{% for i in l if i>1 %}{{ i }}{{ loop.index }}/{{ loop.length }} {% else %}none{% endfor %}
{% for i in l if i>9 %}{{ i }}{% else %}none{% endfor %}
{% for k,v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %}
{% for c in s %}{{ c }}.{% endfor %}
{% for i in n %}{% endfor %}
{% for i in x %}a{% else %}b{% endfor %}
{% for i in no %}{% endfor %}
{% for a,b in [(1,2),(3,4)] %}{{ a+b }}{% endfor %}
{% for a,b in [(1,2,3)] %}{% endfor %}
{% for a,(b,c) in [(1,(2,3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for i in l %}{% if i==1 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in l %}{% if i==1 %}{% continue %}{% endif %}{{ i }}{% endfor %}
{% break %}
{% for i in l %}{% for j in l %}{% if j==1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}
{% for i in l %}{{ loop.previtem }}-{{ loop.nextitem }} {% endfor %}
{% for i in l %}{{ loop.cycle('a','b') }}{% endfor %}
{% for i in [1,1,2] %}{{ loop.changed(i) }}{% endfor %}
{% for i in [1,[2,[3]]] recursive %}{% if i is number %}{{ i }}@{{ loop.depth }}{% else %}({{ loop(i) }}){% endif %}{% endfor %}
{% for i in l %}{{ loop(l) }}{% endfor %}
{% for i in l %}{{ loop }}{% endfor %}
{% set a=1 %}{% for i in l %}{% set a=i %}{% endfor %}{{ a }}
{% set ns=namespace(a=1) %}{% for i in l %}{% set ns.a=ns.a+i %}{% endfor %}{{ ns.a }}
{% set ns.a=1 %}
{% set d.b=1 %}
{% set ns=namespace(_a=1) %}
{% set ns=namespace() %}{% set ns._x=1 %}
{% set ns=namespace() %}{{ ns.x is defined }}{{ ns }}
{% set a,b=1,2 %}{{ a }}{{ b }}
{% set a=1,2 %}{{ a }}
{% set a,b=1 %}
{% set a,b=[1,2,3] %}
{% set a %}x{{ n }}{% endset %}{{ a }}
{% set a|upper %}x{{ n }}{% endset %}{{ a }}
{% set a|replace('x','y')|upper %}x{% endset %}{{ a }}
{% if t %}{% set a=1 %}{% endif %}{{ a }}
{% if fa %}a{% elif t %}b{% else %}c{% endif %}
{% if fa %}a{% elif fa %}b{% else %}c{% endif %}
{% macro m(a,b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1,3) }}{{ m(b=5,a=4) }}{{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1,2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(c=2) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1,2,c=3) }}
{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{% endcall %}
{% macro m() %}{{ caller(1) }}{% endmacro %}{% call(a) m() %}x{{ a }}{% endcall %}
{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(3) }}
{% macro m(a=1,b) %}{% endmacro %}
{% macro m(n) %}{{ n }}{% if n>0 %}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(3) }}
{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}
{% macro m() %}a{% endmacro %}{{ m }}{{ m.name }}
{% macro m(x) %}{{ n }}{{ x }}{% set n=1 %}{% endmacro %}{{ m(2) }}{{ n }}
{% filter upper %}abc{{ s }}{% endfilter %}
{% filter replace('a','b')|upper %}abc{% endfilter %}
{% with a=1,b=2 %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% with a=1,b=a %}{{ b }}{% endwith %}
{% with %}{% set a=1 %}{{ a }}{% endwith %}{{ a }}
{% generation %}x{{ n }}{% endgeneration %}
{% block a %}x{{ n }}{% endblock %}
{% block a %}{% endblock %}{% block a %}{% endblock %}
{% for i in l %}{% block a scoped %}{{ i }}{% endblock %}{% endfor %}
{% for i in l %}{% block a %}{{ i }}{% endblock %}{% endfor %}
{% print n %}
{% include 'a' %}
{% extends 'a' %}
{% import 'a' as b %}
{% set c=cycler('a','b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% set _=c.reset() %}{{ c.next() }}
{% set j=joiner('|') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}
{{ d.a.x|map('string')|join }}
{% if 'a' is nope %}x{% endif %}
{% if fa %}{{ 1|nope }}{% endif %}ok
{{ 1|nope if fa else 2 }}
{% for i in em %}{{ 1|nope }}{% endfor %}
{% set m=ms[0] %}{{ m.role }}{{ m['content'] }}
{{ ms[-1].content is defined }}
{{ '{{' }}
{{ '}}' }}
{{ {'a':{'b':1}}.a.b }}
{{ {'a':{'b':1}}}}
{% set x=[] %}{% set x=x+[1] %}{{ x }}
{{ n }}{% set n=8 %}{{ n }}
{% for n in l %}{{ n }}{% endfor %}{{ n }}
{% for i in l %}{% set loop=1 %}{% endfor %}
{{ loop is defined }}
{% if not(t) %}a{% else %}b{% endif %}
{% if t and not fa and (n == 7 or s) %}y{% endif %}
a\n
a\n\n
{% set a = 'x' -%}\n   y
{{ ns.a.b.c if ns is defined else 'z' }}
{% for m in ms %}{{ m.role + ':' + (m.content or '-') }}\n{% endfor %}
{% for i in range(3) %}{{ loop.index0 % 2 == 0 }}{% endfor %}
{%for i in l%}{{i}}{%endfor%}
{{- s -}}
{{+ 1 }}
{{ 1 +}}
{% if t -%}\n\n  a{% endif %}
\u00a0{% if t %}a{% endif %}
x  {% if t %}a{% endif %}
{# a #}{# b #}\nc
{{ [1,2\n,3] }}
{{ x.y.z }}
{{ s.x.y }}
{{ d['a']['zz']['q'] }}
{% set f = 'a' ~ n ~ f %}{{ f }}
{% call x() %}{% endcall %}
{% call 1 %}{% endcall %}
{{ m(**{'a':1}) }}
{% macro m(a,b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1,2]) }}{{ m(**{'a':1,'b':2}) }}{{ m(1,**{'b':4}) }}
{{ range(*[1,4])|list }}
{% macro m(a) %}{% endmacro %}{{ m(1,a=2) }}
{{ dict(a=1,a=2) }}
{% for i in l recursive %}{{ i }}{% endfor %}
{% for x in l %}{% endfor %}{{ x }}
{% set x = x|default(5) %}{{ x }}
{%  if   t  %}a{%  endif  %}
{{ "a" "b" 'c' }}
{% for a in l %}{% else %}{% endfor %}{{ a }}
{{ (l|map('abs'))|list + [1] }}
{% set g = l|map('abs') %}{{ g|list }}{{ g|list }}
{% for i in l|map('abs') %}{{ loop.index }}{{ loop.last }}{% endfor %}
{% for i in l|map('abs') %}{{ loop.length }}{% endfor %}
{{ ms|map(attribute='role')|unique|list }}
{{ ms|selectattr('role','in',['tool'])|list|length }}
{{ l|select('in',[1,2])|list }}
{% for j in l %}{{ s }}{% endfor %}{% set s=1 %}{{ s }}
{% for i in l %}{% for j in l %}{{ s }}{% endfor %}{% set s=i %}{% endfor %}{{ s }}
{% set s=0 %}{% for i in l %}{% for j in l %}{{ s }}{% endfor %}{% set s=i %}{% endfor %}{{ s }}
{% if t %}{% set s=1 %}{% endif %}{% for i in l %}{{ s }}{% endfor %}
{% if fa %}{% set s=1 %}{% endif %}{% for i in l %}{{ s }}{% endfor %}
{% if fa %}{{ s }}{% set s=1 %}{% elif fa %}{% set s=3 %}{% else %}{% for i in l %}{{ s }}{% endfor %}{% set s=2 %}{% endif %}{{ s }}
{% if t %}{{ s }}{% set s=1 %}{% elif fa %}{% set s=3 %}{% else %}{% set s=2 %}{% endif %}{{ s }}
{% if fa %}a{% elif t %}{% for i in l %}{{ s }}{% endfor %}{% set s=3 %}{% endif %}{{ s }}
{% macro m() %}{{ s }}{% endmacro %}{{ m() }}{% set s=1 %}{{ m() }}
{% macro m() %}{{ s }}{% set s=2 %}{{ s }}{% endmacro %}{{ m() }}{{ s }}
{% macro m() %}{% for i in l %}{{ s }}{% endfor %}{% set s=2 %}{{ s }}{% endmacro %}{{ m() }}{{ s }}
{% macro m(a=s) %}{{ a }}{% endmacro %}{{ m() }}{% set s=1 %}{{ m() }}
{% set s %}{{ s }}!{% endset %}{{ s }}
{% set s = s ~ 1 %}{{ s }}
{% with s=1 %}{{ s }}{% endwith %}{{ s }}
{% with a=s %}{{ a }}{% endwith %}{% set s=2 %}
{% with %}{% for i in l %}{{ s }}{% endfor %}{% set s=2 %}{% endwith %}{{ s }}
{% filter upper %}{{ s }}{% set s='q' %}{{ s }}{% endfilter %}{{ s }}
{% generation %}{% for i in l %}{{ s }}{% endfor %}{% set s=1 %}{% endgeneration %}{{ s }}
{% for s in l %}{{ s }}{% endfor %}{{ s }}
{% for i in s %}{{ i }}{% endfor %}{% set s=1 %}
{% for i in l %}{{ s }}{% set s=i %}{{ s }}{% endfor %}{{ s }}
{% for i in l %}{% if i==1 %}{% set s=i %}{% endif %}{{ s }}{% endfor %}
{% for i in l %}{% if i==1 %}{% set s=i %}{% endif %}{% for j in l %}{{ s }}{% endfor %}{% endfor %}
{% for i in em %}{% else %}{% for j in l %}{{ s }}{% endfor %}{% set s=1 %}{{ s }}{% endfor %}{{ s }}
{% block b %}{% for j in l %}{{ s }}{% endfor %}{% set s=1 %}{{ s }}{% endblock %}{{ s }}
{% for j in l %}{{ m() }}{% endfor %}{% macro m() %}x{% endmacro %}
{{ m() }}{% macro m() %}x{% endmacro %}
{{ s }}{% macro s() %}x{% endmacro %}{{ s() }}
{% for j in l %}{{ s }}{% endfor %}{% macro s() %}x{% endmacro %}
{% call(s) x() %}{% endcall %}
{% macro m() %}{{ caller(3) }}{% endmacro %}{% call(s) m() %}{{ s }}{% for i in l %}{{ n }}{% endfor %}{% set n=4 %}{% endcall %}{{ s }}
{% set ns=namespace(a=1) %}{% for i in l %}{% set ns.a=s %}{% endfor %}{{ ns.a }}{% set s=1 %}
{% for i in l if s %}{{ i }}{% endfor %}{% set s=1 %}
{% if s is defined %}{% set s=1 %}{% endif %}{{ s }}
{% if x is not defined %}{% set x=1 %}{% endif %}{% for i in l %}{{ x }}{% endfor %}
{% set x, s = 1, 2 %}{{ x }}{{ s }}
{% for i in l %}{% set s, x = i, s %}{{ x }}{% endfor %}
{% macro a() %}{% macro b() %}{{ s }}{% endmacro %}{{ b() }}{% set s=1 %}{{ b() }}{% endmacro %}{{ a() }}
{% if fa %}{% elif fa %}{% set s=1 %}{% elif t %}{% for i in l %}{{ s }}{% endfor %}{% set s=2 %}{% else %}{% set s=5 %}{% endif %}{{ s }}
{% if fa %}{% set s=0 %}{% elif fa %}{% set s=1 %}{% elif t %}{% for i in l %}{{ s }}{% endfor %}{% set s=2 %}{% else %}{% set s=5 %}{% endif %}{{ s }}
'''.strip("\n").split("\n")


# ---- templates -------------------------------------------------------------------------------------------------------------------

LLAMA_TOOLS = r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- the system message is taken out so that it can stand where it must #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\n\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "You have access to these functions:\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\n' -}}
    {{- "Given these functions, answer with a JSON call.\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {%- if builtin_tools is defined and tool_call.name in builtin_tools %}
            {{- "<|python_tag|>" + tool_call.name + ".call(" }}
            {%- for arg_name, arg_val in tool_call.arguments | items %}
                {{- arg_name + '="' + arg_val|string + '"' }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- endif %}
            {%- endfor %}
            {{- ")" }}
        {%- else  %}
            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

TOOLS_CHATML = r"""{%- macro turn(role, text='') -%}
<|im_start|>{{ role }}
{{ text }}<|im_end|>
{% endmacro -%}
{%- if tools %}
    {{- '<|im_start|>system\n' ~ (messages[0].content if messages[0].role == 'system' else 'You are a helpful assistant.') }}
    {{- "\n\n<tools>" }}
    {%- for tool in tools %}{{- "\n" ~ tool|tojson }}{% endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- endif %}
{%- for m in messages if m.role != 'system' or not tools %}
    {%- if m.role == 'assistant' and m.tool_calls is defined and m.tool_calls %}
        {{- '<|im_start|>assistant' }}{% if m.content %}{{ '\n' ~ m.content }}{% endif %}
        {%- for c in m.tool_calls|map(attribute='function') %}
            {{- '\n<tool_call>\n' ~ {'name': c.name, 'arguments': c.arguments}|tojson ~ '\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {{- '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' else '' }}
        {{- '\n<tool_response>\n' ~ m.content ~ '\n</tool_response>' }}
        {{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' else '' }}
    {%- else %}
        {{- turn(m.role, m.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

INST = r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS][" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{% endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{% else %}{{- "]" }}{% endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS][" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{% else %}{{- "]" + eos_token }}{% endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- message["content"] + eos_token}}
    {%- elif message["role"] == "tool" %}
        {%- set content = message.content.content if message.content is mapping and message.content.content is defined else message.content %}
        {{- '[TOOL_RESULTS]{"content": ' + content|string + "}[/TOOL_RESULTS]" }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""

LLAMA2 = (r"""{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"""
          r"""{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"""
          r"""{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"""
          r"""{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + """
          r"""message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"""
          r"""{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"""
          r"""{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""")

PHI4 = r"""{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"""

MISTRAL_SMALL = r"""{%- set today = strftime_now("%Y-%m-%d") %}
{%- set default_system_message = "You are Mistral Small 3, a Large Language Model (LLM) created by Mistral AI, a French startup headquartered in Paris.\nYour knowledge base was last updated on 2023-10-01. The current date is " + today + "." %}

{{- bos_token }}

{%- if messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}
        {%- set system_message = messages[0]['content'] %}
    {%- else %}
        {%- set system_message = messages[0]['content'][0]['text'] %}
    {%- endif %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = default_system_message %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}

{%- for message in loop_messages %}
    {%- if message['role'] == 'user' %}
        {%- if message['content'] is string %}
            {{- '[INST]' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST]' }}
            {%- for block in message['content'] %}
                {%- if block['type'] == 'text' %}
                    {{- block['text'] }}
                {%- elif block['type'] in ['image', 'image_url'] %}
                    {{- '[IMG]' }}
                {%- else %}
                    {{- raise_exception('Only text and image blocks are supported in message content!') }}
                {%- endif %}
            {%- endfor %}
            {{- '[/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'system' %}
        {%- if message['content'] is string %}
            {{- '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}
        {%- else %}
            {{- '[SYSTEM_PROMPT]' + message['content'][0]['text'] + '[/SYSTEM_PROMPT]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {%- if message['content'] is string %}
            {{- message['content'] + eos_token }}
        {%- else %}
            {{- message['content'][0]['text'] + eos_token }}
        {%- endif %}
    {%- else %}
        {{- raise_exception('Only user, system and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}"""

ZEPHYR = r"""{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

DEEPSEEK = (r"""{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, """
            r"""is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}"""
            r"""{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in """
            r"""messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}"""
            r"""{%- if message['role'] == 'assistant' and message.tool_calls %}{%- set ns.is_tool = false -%}{%- for tool in """
            r"""message['tool_calls']%}{{'<|call|>' + tool['function']['name'] + '\n' + tool['function']['arguments']|tojson + '\n'}}"""
            r"""{%- endfor %}{%- elif message['role'] == 'assistant' and message['content'] is not none %}{% set content = """
            r"""message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"""
            r"""{%- if ns.is_tool %}{{'<|outputs-end|>' + content}}{%- set ns.is_tool = false -%}{%- else %}{{'<|Assistant|>' + content}}"""
            r"""{%- endif %}{{eos_token}}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if """
            r"""ns.is_output_first %}{{'<|outputs|>' + message['content']}}{%- set ns.is_output_first = false %}{%- else %}"""
            r"""{{'\n' + message['content']}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<|outputs-end|>'}}{% endif %}"""
            r"""{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|><think>\n'}}{% endif %}""")

GENERATION = r"""{% for m in messages %}
{% if m.role == 'assistant' %}
<|assistant|>
{% generation %}
{{ m.thinking ~ '|' if m.thinking is defined }}{{ m.content }}
{% endgeneration %}
{% else %}
<|{{ m.role }}|>
{{ m.content }}
{% endif %}
{% endfor %}
{{ strftime_now('%Y-%m-%d %H:%M:%S %a %B %j') if strftime_now is defined else 'no clock' }} {{ documents is none }} {{ tools is defined }}"""

CALL = {"type": "function", "id": "abcdefg12", "function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 2, "f": 0.1}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The \"weather\" of a <city>, d'été & 冬",
          "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "北京"]},
                         "days": {"type": "integer", "default": 1, "minimum": 0.5}}, "required": ["city"], "additionalProperties": False}}},
         {"type": "function", "function": {"name": "noop", "description": "", "parameters": {"type": "object", "properties": {}}}}]


def said(*turns):
    return [{"role": {"s": "system", "u": "user", "a": "assistant", "t": "tool"}[r], "content": c} for r, c in turns]


CONVERSATIONS = [
    said(("u", "Hi")),
    said(("s", "Be brief."), ("u", "Hi")),
    said(("s", "  spaced \n"), ("u", "\n a \n"), ("a", " b "), ("u", "c ")),
    said(("u", "1"), ("a", "2"), ("u", "3"), ("a", "4")),
    said(("u", "Grüße 日本語 🎉 \u200b \u2028 \u0000 'q' \"d\" \\ {{ x }} {% y %}")),
    said(("u", "")),
    said(("u", "a"), ("a", "")),
    said(("a", "I begin")),
    said(("u", "a"), ("u", "b")),
    said(("s", "only system")),
    said(("u", "a"), ("s", "late system"), ("u", "b")),
    said(("u", "q"), ("a", "<think>\nlong\n thought\n</think>\n\nanswer"), ("u", "more")),
    said(("u", "q"), ("a", "<think>\nlong thought\n</think>\n\nanswer")),
    [*said(("u", "q")), {"role": "assistant", "reasoning_content": "\nbecause\n", "content": "\nanswer"}],
    [*said(("u", "q")), {"role": "assistant", "thinking": "hm", "content": "answer"}, *said(("u", "more"))],
    [*said(("u", "q")), {"role": "assistant", "content": "", "tool_calls": [CALL]}, *said(("t", "22°"))],
    [*said(("s", "sys"), ("u", "q")), {"role": "assistant", "content": "Look:", "tool_calls": [CALL, CALL]}, *said(("t", "1"), ("t", "2"), ("a", "done"))],
    [*said(("u", "q")), {"role": "assistant", "reasoning_content": "use it", "content": "", "tool_calls": [CALL]}, *said(("t", "{\"x\": 1}")),
     {"role": "assistant", "reasoning_content": "have it", "content": "It is 1."}],
    [*said(("u", "q")), {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{\"raw\": 1}"}}]}],
    said(("u", "<tool_response>\nx\n</tool_response>"), ("a", "y")),
    [{"role": "user", "content": [{"type": "text", "text": " part "}, {"type": "image"}, {"type": "text", "text": "two"}]}],
    [*said(("s", "s")), {"role": "user", "content": [{"type": "text", "text": "x"}]}],
    [{"role": "system", "content": [{"type": "text", "text": "listed"}]}, *said(("u", "x"))],
    [{"role": "user", "content": 5}],
    [{"role": "user"}],
    [{"content": "no role"}],
    [],
    [{"role": "unknown", "content": "x"}],
]
BOTH = [{"add_generation_prompt": False}, {"add_generation_prompt": True}]
WITH_TOOLS = [*BOTH, {"add_generation_prompt": True, "tools": TOOLS}]
EXTRA = {
    "qwen3": [*WITH_TOOLS, {"add_generation_prompt": True, "enable_thinking": False}],
    "llama_tools": [*WITH_TOOLS, {"tools": TOOLS, "tools_in_user_message": False}, {"date": "2026-01-31"}, {"date_string": "1 Feb 2025"},
                    {"builtin_tools": ["get_weather", "code_interpreter"], "add_generation_prompt": True}, {"custom_tools": TOOLS[:1]}],
    "phi4_mini": [*BOTH, {}], "mistral_small": [{"date": "2026-01-31", "add_generation_prompt": True}],
    "chatml_tools": WITH_TOOLS, "inst": WITH_TOOLS, "generation": [{}, {"date": "2026-01-31T12:34:56"}],
}



def render(template, messages, options):
    env = reference._compile_jinja_template(template).environment
    options = {"bos_token": "<s>", "eos_token": "</s>", **options}
    date = options.pop("date", None)
    clock = env.globals.pop("strftime_now")
    if date:
        env.globals["strftime_now"] = lambda f: Clock.now().replace(**({} if "T" in date else dict(hour=0, minute=0, second=0))).strftime(f)
    try:
        return {"out": reference.render_jinja_template([messages], chat_template=template, **options)[0][0]}
    except jinja2.exceptions.TemplateError as e:
        raised = type(e) is jinja2.exceptions.TemplateError
        return {"error": str(e) if raised else ""}  # what the template itself raised; other faults have our own words
    except Exception:
        return {"error": ""}
    finally:
        env.globals["strftime_now"] = clock


def conversations(templates):
    cases = []
    for name, template in templates.items():
        for i, messages in enumerate(CONVERSATIONS):
            for options in EXTRA.get(name, BOTH):
                cases.append({"template": name, "conversation": i, "options": options, **render(template, messages, options)})
    return {"made_with": versions(), "templates": templates, "conversations": CONVERSATIONS, "cases": cases}


def language():
    cases = []
    for text in [*("{{ " + e + " }}" for e in EXPRESSIONS), *(s.replace("\\n", "\n") for s in STATEMENTS)]:
        try:
            out = {"out": reference._compile_jinja_template(text).render(**VARS)}
        except Exception:
            out = {"error": ""}
        assert " at 0x" not in out.get("out", ""), text
        cases.append({"text": text, **out})
    return {"made_with": versions(), "vars": VARS, "cases": cases}


def versions():
    return f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}"


def write(name, data):
    rows = ",\n".join(json.dumps(c, ensure_ascii=False) for c in data.pop("cases"))
    head = json.dumps(data, ensure_ascii=False, indent=0)[:-2]
    (OUT / name).write_text(f'{head},\n"cases": [\n{rows}\n]}}\n', encoding="utf8")


def main():
    own = [json.loads(pathlib.Path(p).read_text(encoding="utf8"))["chat_template"] for p in sys.argv[1:4]]
    smol = gguf.GGUFReader(sys.argv[4]).fields["tokenizer.chat_template"].contents()
    templates = {"qwen3": own[0], "llama3": own[1], "gemma3": own[2], "smollm2": smol, "llama_tools": LLAMA_TOOLS, "chatml_tools": TOOLS_CHATML,
                 "inst": INST, "llama2": LLAMA2, "zephyr": ZEPHYR, "deepseek": DEEPSEEK, "generation": GENERATION,
                 "phi4_mini": PHI4, "mistral_small": MISTRAL_SMALL}
    OUT.mkdir(parents=True, exist_ok=True)
    write("conversations.json", conversations(templates))
    write("language.json", language())


main()
