"""The operator's commands, found through the entry-point group `edgerun.commands`."""

from edgerun.cli import Row

ROWS = (
    Row("demo", "the whole story in about a minute, live on a web page", "deploy.demo.command", "demo"),
    Row("dashboard", "collect telemetry and show it on a web page", "deploy.dashboard.command", "dashboard"),
    Row("broker", "run mosquitto where it is installed, else the embedded demo broker", "deploy.broker", "demo"),
    Row("teach", "teach a device a class with a few examples", "deploy.operator:teach", "sign"),
    Row("feedback", "tell a device the true class of past samples", "deploy.operator:feedback", "sign"),
    Row("pause", "stop learning", "deploy.operator:pause", "sign"),
    Row("resume", "go on learning", "deploy.operator:resume", "sign"),
    Row("rollback", "undo what a device learned", "deploy.operator:rollback", "sign"),
    Row("budget", "change what a device may spend", "deploy.operator:budget", "sign"),
    Row("checkpoint", "make a device save what it learned", "deploy.operator:checkpoint", "sign"),
    Row("consolidate", "make a device protect what it learned", "deploy.operator:consolidate", "sign"),
    Row("probe", "make a device score itself on its probe samples", "deploy.operator:probe", "sign"),
    Row("forget", "make a device forget a class", "deploy.operator:forget", "sign"),
    Row("wipe", "erase everything that a device learned and kept", "deploy.operator:wipe", "sign"),
)
