"""The command line of the project: how commands read their words, say what is wrong with them, and end."""

from modules.command_line.ending import guarded as guarded
from modules.command_line.ending import is_user_error as is_user_error
from modules.command_line.ending import one_line as one_line
from modules.command_line.ending import place as place
from variants.command_line import Parser as Parser
