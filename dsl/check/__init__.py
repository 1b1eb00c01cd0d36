"""Syntax trees and a target to the checked program (`dsl.ir`): names resolved, kernel data typed, units and labels kept."""
