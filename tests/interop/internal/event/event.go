// Package event prints what happens as one JSON object a line on standard output, so that a test can wait for it.
package event

import (
	"encoding/json"
	"os"
	"sync"
)

// Fields are what an event says beside its name.
type Fields map[string]any

var mu sync.Mutex

// Emit prints one event.
func Emit(name string, fields Fields) {
	line := Fields{"event": name}
	for key, value := range fields {
		line[key] = value
	}
	mu.Lock()
	defer mu.Unlock()
	// Standard output that is gone means that nobody waits any more.
	_ = json.NewEncoder(os.Stdout).Encode(line)
}
