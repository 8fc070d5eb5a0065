"""A calculator as a tool: the model writes <calc>12*34</calc>, and the result is put behind it."""
import ast
import operator
import re

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.USub: operator.neg}


def value(node):
    """Integers, + - * and brackets; anything else is a ValueError."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](value(node.operand))
    raise ValueError


class Calculator:
    def reset(self):
        self.used = False

    def step(self, completion):
        call = re.search(r"<calc>([^<>]{1,60})</calc>$", completion)
        if not call:
            return None  # the model has given its answer
        try:
            result = value(ast.parse(call[1].strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError):
            return " error\n", 0.0
        first, self.used = not self.used, True
        return f" {result}\n", 1.0 if first else 0.0  # a second call earns nothing
